"""The command that is stopped, or that nobody listens to."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.commands import complaint
from tests.runs import tiny_recipe

from shoal.cli.main import main
from shoal.results import train as workflow

pytestmark = pytest.mark.usefixtures("no_umap", "own_cache")


def signalled(monkeypatch, name: str, *signums: int) -> None:
    """Let signals come while ``workflow`` does something."""
    does = getattr(workflow, name)

    def and_a_signal(*args, **kwargs):
        for signum in signums:
            os.kill(os.getpid(), signum)
        return does(*args, **kwargs)

    monkeypatch.setattr(workflow, name, and_a_signal)


@pytest.mark.parametrize("output", [pytest.param("finished_run", marks=pytest.mark.slow), "write_result"])
@pytest.mark.parametrize("signum", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_while_results_are_written_stops_the_run(tmp_path, capsys, monkeypatch, output, signum):
    out = tmp_path / "my run"
    with monkeypatch.context() as patch:
        signalled(patch, output, signum)
        assert (
            main(["train", str(tiny_recipe(tmp_path)), "--max-steps", "1", "--quiet", "--out", str(out)])
            == 128 + signum
        )
    said = complaint(capsys)
    assert said.startswith("shoal: stopped and saved.")
    assert (out / "report.html").exists() == (output == "write_result")
    command = shlex.split(said.partition("Resume with:")[2])
    assert command == ["shoal", "train", "--resume", str(out)]
    assert main([*command[1:], "--quiet"]) == 0
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    "signums", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_a_second_signal_stops_at_once(tmp_path, capsys, monkeypatch, signums):
    out = tmp_path / "run"
    signalled(monkeypatch, "finished_run", *signums)
    args = ["train", str(tiny_recipe(tmp_path)), "--max-steps", "1", "--quiet", "--out", str(out)]
    assert main(args) == 128 + signums[-1]
    assert complaint(capsys) == f"shoal: stopped. Resume with:  shoal train --resume {out}"
    assert not (out / "assignments.parquet").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_exists(tmp_path, capsys, monkeypatch, signum):
    before = signal.getsignal(signum)
    signalled(monkeypatch, "load_images", signum)
    out = tmp_path / "run"
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--out", str(out)]) == 128 + signum
    assert complaint(capsys) == "shoal: stopped."
    assert not out.exists()
    assert signal.getsignal(signum) is before


def piped(args: list[str], output: int) -> tuple[int, str]:
    """Status and complaints of the command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *args], stdout=output, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("args", [["recipes"], ["--help"], ["predict", "--help"]])
def test_output_that_nobody_reads(args):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert piped(args, writer) == (128 + signal.SIGPIPE, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_onto_a_full_disk():
    with Path("/dev/full").open("w") as full:
        assert piped(["--help"], full.fileno()) == (2, "shoal: No space left on device\n")
