"""The help fills its lines, and numbers that no command can use are refused at once."""

from itertools import pairwise

import pytest
from tests.commands import complaint

from shoal.cli.main import main

BROKEN = """\
╭─ options ────────────────────────────────────╮
│ -h, --help   show this help message and exit │
│ --grid SETTING=VALUE,VALUE...                │
│              Values of settings, by their    │
│              names; one value                │
│              alone sets it for all.          │
│ --out PATH   Folder to write; by default     │
│              sweeps/RECIPE.                  │
╰──────────────────────────────────────────────╯
"""


def breaks(text, width):
    """Lines in the help of a flag that had room for the first word of the next line."""
    plain = [line.replace("│", " ") for line in text.splitlines() if len(line) == width]
    boxed = [line[2:-2] for line in plain if line.startswith("  ")]  # where there is no UTF-8, boxes are blank
    column = min(len(line) - len(line.lstrip()) for line in boxed if line.startswith(" ") and line.strip())
    found = []
    for line, following in pairwise(boxed):
        has_help = line[column - 2 : column] == "  " and line.strip()
        if has_help and following.strip() and not following[:column].strip():
            word = following.split()[0]
            if len(line.rstrip()) + 1 + len(word) <= len(line):
                found.append(f"{line.strip()} / {word}")
    return found


@pytest.mark.parametrize("args", [["cluster"], ["sweep"], ["train", "propos-digits"]], ids=" ".join)
@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_the_help_of_a_flag_ends_early(args, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*args, "--help"])
    shown = capsys.readouterr().out
    assert breaks(shown, width) == []
    assert breaks(BROKEN, 48) == ["names; one value / alone"]


@pytest.mark.parametrize("k", ["0", "-3"])
def test_fewer_clusters_than_one_are_refused_before_anything_is_read(k, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shoal.results.inputs.read_inputs", lambda *_given, **_how: pytest.fail("it was read"))
    assert main(["cluster", "digits", "-k", k]) == 2
    assert complaint(capsys) == f"shoal: -k {k} must be at least 1, or auto."
    assert list(tmp_path.iterdir()) == []
