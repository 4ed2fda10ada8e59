"""The command under ``torchrun``: processes that die, and what is said and kept then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.runs import tiny_recipe

from shoal.cli.main import main
from shoal.folder import ResultFolder
from shoal.tensors import read_tensors

LONG = ("--epochs", "100000", "--compile", "off")
"""More than a test waits for."""


@contextmanager
def torchrun(
    *args: str,
    restarts: int = 0,
    n: int = 2,
    module: str = "saving_often",
    meeting: Sequence[str] = ("--standalone",),
) -> Iterator[subprocess.Popen[str]]:
    """The command on some ranks, in a process group of its own that is ended with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", str(n)]
    command += ["--max-restarts", str(restarts), "-m", f"tests.distributed.{module}", *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as said:
        job = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
        )
        job.said = said
        try:
            yield job
        finally:
            for pid in (*ranks(job), job.pid) if job.poll() is None else ():
                os.kill(pid, signal.SIGKILL)
            job.wait()


def ended(job: subprocess.Popen[str]) -> str:
    """All that a job said, at most a minute from now."""
    job.wait(timeout=60)
    job.said.seek(0)
    return job.said.read()


def ranks(job: subprocess.Popen[str]) -> list[int]:
    """Process numbers of the ranks, the first one first."""
    found = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    return sorted(int(pid) for pid in found if b"tests.distributed." in Path(f"/proc/{pid}/cmdline").read_bytes())


def steps(folder: Path) -> int:
    """Steps that the last save has seen."""
    state = ResultFolder(folder).state
    if not state.exists():
        return 0
    header, _ = read_tensors(state)
    return int(header["epoch"]) * 7 + int(header["step"])


def after_saves(folder: Path, job: subprocess.Popen[str], since: int = 0) -> int:
    """The steps of a save that comes after that of ``since``, once it is there."""
    until = time.monotonic() + 60
    while (now := steps(folder)) <= since:
        assert job.poll() is None, ended(job)
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.1)
    return now


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_its_state_is_gone_on_with(tmp_path):
    out = tmp_path / "run"
    with torchrun("train", str(tiny_recipe(tmp_path)), "--out", str(out), *LONG) as job:
        after_saves(out, job)
        os.kill(ranks(job)[1], signal.SIGKILL)
        said = ended(job)
    assert job.returncode != 0
    assert "Signal 9 (SIGKILL)" in said
    assert "shoal: another process of this run has ended" in said.partition("Traceback")[0]
    kept = steps(out)
    assert kept > 0
    with torchrun("train", "--resume", str(out)) as job:
        assert after_saves(out, job, kept) > kept


@pytest.mark.slow
def test_a_killed_job_goes_on_on_one_process(tmp_path):
    out = tmp_path / "run"
    with torchrun("train", str(tiny_recipe(tmp_path)), "--out", str(out), *LONG) as job:
        before = after_saves(out, job)
        for pid in (*ranks(job), job.pid):
            os.kill(pid, signal.SIGKILL)
        ended(job)
    kept = steps(out)
    assert kept >= before
    alone = [sys.executable, "-m", "tests.distributed.saving_often", "train", "--quiet", "--resume", str(out)]
    with subprocess.Popen(alone) as job:
        try:
            assert after_saves(out, job, kept) > kept
        finally:
            job.kill()


@pytest.mark.slow
def test_ranks_that_are_started_again_go_on(tmp_path):
    out = tmp_path / "run"
    with torchrun("train", str(tiny_recipe(tmp_path)), "--out", str(out), *LONG, restarts=1) as job:
        before = after_saves(out, job)
        first = ranks(job)
        os.kill(first[0], signal.SIGKILL)
        until = time.monotonic() + 60
        while not (now := set(ranks(job))) or now & set(first):
            assert time.monotonic() < until, "the ranks were not started again"
            time.sleep(0.1)
        assert after_saves(out, job, before) > before
        for pid in ranks(job):
            os.kill(pid, signal.SIGTERM)
        said = ended(job)
    assert "stopped and saved. Resume with:  shoal train --resume" in said


@pytest.mark.slow
def test_a_mistake_is_told_once(tmp_path):
    with torchrun("train", str(tiny_recipe(tmp_path)), "--n-clusters", "999", "--out", str(tmp_path / "run")) as job:
        said = ended(job)
    assert job.returncode != 0
    assert said.count("999 clusters need at least as many images") == 1
    assert said.startswith("shoal: ")
    assert "shoal: process 1:" not in said


@pytest.mark.slow
def test_two_ranks_finish_and_the_first_writes(tmp_path):
    out = tmp_path / "run"
    with torchrun("train", str(tiny_recipe(tmp_path)), "--out", str(out)) as job:
        said = ended(job)
    assert job.returncode == 0, said
    assert said.count("epoch 1") == 1
    assert (out / "report.html").exists()
    assert main(["report", str(out)]) == 0


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What was decoded for one test is not there for another."""
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
