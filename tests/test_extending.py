"""docs/extending.md does what it says: its files as they stand there, its commands but for their length."""

from __future__ import annotations

import re
import runpy
import shlex
from importlib import import_module

import pytest

from shoal.cli.main import main
from shoal.data import find_source
from shoal.errors import UserError
from shoal.testing import check_augmentation, check_source
from tests.plugging import ROOT, commands_of_page, files_of_page, unplugged  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("unplugged")


in_a_folder = pytest.mark.usefixtures("page")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A folder with the files of the page, as the current one."""
    for name, text in files_of_page().items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_method_has_about_forty_lines_of_code():
    lines = [line for line in files_of_page()["vicreg.py"].splitlines() if line.strip() and "import" not in line]
    assert len(lines) <= 42


def shortened(command: str) -> list[str]:
    """A training that stops after two steps; other commands as they are."""
    args = shlex.split(command)[1:]
    return [*args, "--max-steps", "2", "--quiet"] if args[0] == "train" and "--help" not in args else args


@pytest.mark.slow
def test_the_commands_of_the_page_work(page, capsys):
    commands = commands_of_page()
    assert len(commands) >= 9
    for command in commands:
        try:
            status = main(shortened(command))
        except SystemExit as stop:  # help
            status = stop.code
        assert status == 0, (command, capsys.readouterr().err)
    assert (page / "runs" / "vicreg" / "report.html").exists()
    assert "--method.alike" in capsys.readouterr().out


@in_a_folder
def test_the_test_of_the_page_passes():
    found = runpy.run_path("test_vicreg.py")
    found["test_vicreg"]()


@pytest.mark.slow
@in_a_folder
def test_the_python_of_the_page_works(capsys):
    runpy.run_path("use_vicreg.py")
    assert capsys.readouterr().out.startswith("[")


@in_a_folder
def test_the_augmentation_of_the_page_keeps_the_contract():
    check_augmentation(runpy.run_path("erase.py")["Erase"])


@in_a_folder
def test_the_source_of_the_page_keeps_the_contract_and_says_what_is_wrong():
    from shoal import load_plugin

    load_plugin("bars.py")
    check_source("bars://20")
    assert find_source("bars://7").listing().ids[6] == "bar 6"
    with pytest.raises(UserError, match="say how many"):
        find_source("bars://many")


def test_all_that_the_page_imports_is_in_the_reference():
    page = (ROOT / "docs" / "extending.md").read_text()
    reference = "\n".join(each.read_text() for each in (ROOT / "docs" / "api").glob("*.md"))
    known = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)", reference, re.M)}
    known |= set(re.findall(r"members: \[(.*)\]", reference))
    names = {
        name.strip()
        for line in re.findall(r"^from shoal[\w.]* import (.*)$", page, re.M)
        for name in line.strip("()").split(",")
    }
    names = names - {"distributed"} | set(re.findall(r"\bdistributed\.(\w+)\(", page))
    names |= set(re.findall(r"`(?:shoal\.\w+\.)?([A-Z]\w+)`", page)) & set(dir(import_module("shoal.models")))
    assert {"Target", "Queue", "Backbone", "mlp"} <= names
    assert not names - known
