"""What a long job says: the live line as it looks on a terminal of 80 columns, and the lines in a pipe."""

import logging
import re
import time

import pytest

from shoal import progress as module
from shoal.cli.main import main
from shoal.progress import PlainProgress, TerminalProgress, counted

ROW = {"epoch": 11, "loss": 0.1214, "acc": 0.94, "nmi": 0.87, "ari": 0.85, "silhouette": 0.3, "changed": 0.01}


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


def frames(capsys) -> list[str]:
    """What was drawn, one line at a time."""
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    return [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", without_colours) if line.strip()]


def test_only_the_metrics_are_cut(capsys):
    with TerminalProgress() as progress:
        progress.update("reading images", 40, 40)
        progress.update("epoch 2/3", 3, 6, "32 images/s")
        progress.epoch(ROW, 90)
    last = frames(capsys)[-1]
    assert len(last) <= 80
    assert re.match(r"epoch 2/3 +\S+ +32 images/s +-:--:-- +loss 0\.121  acc 0\.940 .*…$", last), last


def test_a_short_job_within_a_longer_one_borrows_its_line(capsys):
    progress = TerminalProgress()
    progress.update("epoch 2/3", 3, 6, "32 images/s")
    progress.update("clustering", 20, 40, within=True)
    progress._bar.refresh()
    shown = frames(capsys)[-1]
    assert re.match(r"epoch 2/3 .*clustering 20/40", shown), shown
    progress.update("clustering", 40, 40, within=True)
    progress.close()
    last = frames(capsys)[-1]
    assert "32 images/s" in last
    assert "clustering" not in last


def test_a_job_without_a_rate_is_counted(capsys):
    progress = TerminalProgress()
    progress.counter("training heads")(34, 100)
    progress.close()
    assert re.match(r"training heads +\S+ +34/100", frames(capsys)[-1])


def test_a_job_as_long_as_the_last_one_has_its_own_time(capsys):
    progress = TerminalProgress()
    for network in (1, 2):
        for done in (0, 2, 4) if network == 1 else (0, 1, 2):
            progress.counter(f"network {network} of 2")(done, 4)
            time.sleep(0.01)
    assert progress._bar.tasks[0].time_remaining != 0.0
    assert not progress._bar.tasks[0].finished
    progress.close()
    assert "network 2 of 2" in frames(capsys)[-1]


def test_a_warning_has_a_line_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would hear it first
    assert main(["--version"]) == 0
    with TerminalProgress() as progress:
        progress.update("epoch 2/3", 3, 6, "32 images/s")
        progress.warn("careful")
    assert [line for line in frames(capsys) if "careful" in line] == ["shoal: careful"]


def test_in_a_pipe_there_is_a_line_per_epoch_and_one_a_minute(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    progress = PlainProgress()
    for done in range(100, 1300, 100):
        now[0] += 9
        progress.update("reading images", done, 1200)
    for done in range(1, 15):
        now[0] += 7200
        progress.update(f"epoch {done}/1000", done, 1000, "3 images/s")
        progress.update("clustering", 1, 2, within=True)
    progress.epoch(ROW | {"images_per_second": 32.4, "seconds": 3.0, "e_step_seconds": 1.0}, 90)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "reading images: 200 of 1200, 11 a second, 1 min 30 s left",
        "reading images: 900 of 1200, 11 a second, 27 s left",
        "epoch 1/1000: 1 of 1000, 3 images/s",
    ]
    assert lines[3] == "epoch 2/1000: 2 of 1000, 3 images/s, 83 d 4 h left"
    assert lines[-1:] == [
        "epoch 12 of 90  loss 0.121  acc 0.940  nmi 0.870  ari 0.850  silhouette 0.300  changed 0.010  32 images/s, "
        "E-step 25 %, 82 d 4 h left",
    ]


@pytest.mark.parametrize(("n", "said"), [(0, "0 images are"), (1, "1 image is"), (2, "2 images are")])
def test_numbers_take_the_right_plural(n, said):
    assert counted(n, "image is", "images are") == said
    assert counted(n, "row") == f"{n} row{'' if n == 1 else 's'}"
