"""The live line, as it looks on a terminal of 80 columns."""

import logging
import re

import pytest
from tests.runs import new_run

from shoal.cli.main import main
from shoal.progress import TerminalLog

ROW = {"epoch": 11, "loss": 0.1214, "acc": 0.94, "nmi": 0.87, "ari": 0.85, "silhouette": 0.3, "changed": 0.01}


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


def frames(capsys) -> list[str]:
    """What was drawn, one line at a time."""
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    return [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", without_colours) if line.strip()]


def a_run(path):
    """A run in the middle of its second epoch, 16 images in half a second."""
    run = new_run(path)
    run.epoch, run.step, run.seconds = 1, 1, 0.5
    return run


def test_only_the_metrics_are_cut(tmp_path, capsys):
    run = a_run(tmp_path / "run")
    with TerminalLog() as progress:
        log.reading(40, 40)
        log.step(run)
        progress.epoch(ROW)
    last = frames(capsys)[-1]
    assert len(last) <= 80
    assert re.match(r"epoch 2/3 +\S+ +32 images/s +-:--:-- +loss 0\.121  acc 0\.940 .*…$", last), last


def test_after_an_e_step_the_rate_is_the_rate_again(tmp_path, capsys):
    run = a_run(tmp_path / "run")
    log = TerminalLog()
    log.step(run)
    log.embedding(20, 40)
    log._progress.refresh()
    assert "20/40 embedded" in frames(capsys)[-1]
    log.embedding(40, 40)
    log.close()
    last = frames(capsys)[-1]
    assert "32 images/s" in last
    assert "embedded" not in last


def test_heads_that_are_trained_are_counted(capsys):
    log = TerminalLog()
    log.heads(34, 100)
    log.close()
    assert re.match(r"training heads +\S+ +epoch 34/100", frames(capsys)[-1])


def test_a_warning_has_a_line_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would hear it first
    assert main(["--version"]) == 0
    run = a_run(tmp_path / "run")
    with TerminalLog() as progress:
        log.step(run)
        logging.getLogger("shoal").warning("careful")
    assert [line for line in frames(capsys) if "careful" in line] == ["shoal: careful"]
