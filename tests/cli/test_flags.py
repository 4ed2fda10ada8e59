"""Unknown flags are refused; known ones are not."""

import re
from importlib import import_module

import pytest
from tests.commands import complaint

from shoal.cli.flags import _flags_of
from shoal.cli.main import VERBS, main

BUT_TRAIN = [verb for verb in VERBS if verb != "train"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("args", [["--foo", "x"], ["--foo=x"], ["x", "y", "--foo"], ["--foo"], ["-z"]])
def test_an_unknown_flag_is_named_whatever_else_is_missing(verb, args, capsys):
    args = ["propos-digits", *args[2:]] if verb == "train" and args[0] == "x" else args
    assert main([verb, *args]) == 2
    said = complaint(capsys)
    flag = "-z" if "-z" in args else "--foo"
    assert f"there is no option {flag}" in said
    assert "--help' lists them" in said


@pytest.mark.parametrize(
    ("verb", "wrong", "right"),
    [
        ("cluster", "--quite", "--quiet"),
        ("cluster", "--backbone.nam", "--backbone.name"),
        ("cluster", "--krange", "--k-range"),
        ("cluster", "-kk", "-k"),
        ("update", "--strcit", "--strict"),
        ("sort", "--mve", "--move"),
        ("evaluate", "--test_label", "--test-labels"),
        ("predict", "--ou", "--out"),
    ],
)
def test_the_nearest_flag_is_offered(verb, wrong, right, capsys):
    assert main([verb, wrong, "x"]) == 2
    assert f"there is no option {wrong}: did you mean {right!r}?" in complaint(capsys)


@pytest.mark.parametrize("verb", BUT_TRAIN)
def test_every_flag_of_the_help_is_known(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = re.findall(r"(?:^[│ ]+|, )(-\w|--[a-z][\w.-]*)(?= |,|$)", capsys.readouterr().out, re.MULTILINE)
    module, _, name = VERBS[verb].partition(".")
    known = set(_flags_of(getattr(import_module(f"shoal.cli.{module}"), name)))
    assert set(shown) == known | {"-h", "--help"}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_help_shows_no_choice_of_none(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "{None," not in capsys.readouterr().out
