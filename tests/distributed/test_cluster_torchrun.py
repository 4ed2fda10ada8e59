"""``shoal cluster`` under ``torchrun``: processes that are killed or fail, and what is said and kept then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.distributed.test_sharing import same
from tests.distributed.test_torchrun import ended, ranks, torchrun
from tests.features.examples import pictures, write_weights

from shoal.features.embedded import SHARDS, read_journal

SLOWLY = "embedding_slowly"
N = 120


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    write_weights(folder / "w.safetensors", "test_vit")
    (folder / "photos").mkdir()
    for number, data in enumerate(pictures(N)):
        (folder / "photos" / f"{number:03}.png").write_bytes(b"text" if number == 100 else data)
    network = ["--backbone.name", "test_vit", "--backbone.weights", str(folder / "w.safetensors")]
    return ["cluster", str(folder / "photos"), "-k", "4", *network]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, flags) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    command = [sys.executable, "-m", f"tests.distributed.{SLOWLY}", *flags, "--out", str(out), "--quiet"]
    subprocess.run(command, check=True)
    return out


def done(features: Path) -> list[int]:
    """Images that each part has dealt with."""
    if not (features / "header.json").exists():
        return [0]
    shards = [path for path in (features / SHARDS).glob("*") if (path / "header.json").exists()]
    return [read_journal(features)[0].looked_at, *(read_journal(path)[0].looked_at - int(path.name) for path in shards)]


def after(features: Path, n: int, job: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 90
    while len(found := done(features)) < 2 or min(found) < n:
        assert job.poll() is None, ended(job)
        assert time.monotonic() < until, found
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_and_one_goes_on(whole, flags, tmp_path, victim):
    out = tmp_path / "out"
    with torchrun(*flags, "--out", str(out), module=SLOWLY) as job:
        after(out / "features", 8, job)
        os.kill(ranks(job)[victim], signal.SIGKILL)
        start = time.monotonic()
        said = ended(job)
    assert time.monotonic() - start < 60
    assert said.count("the same command") == 1, said
    kept = sum(done(out / "features"))
    assert 16 <= kept < N
    command = [sys.executable, "-m", f"tests.distributed.{SLOWLY}", *flags, "--out", str(out), "--quiet"]
    subprocess.run(command, check=True)
    same(whole / "features", out / "features")
    assert (out / "assignments.csv").read_bytes() == (whole / "assignments.csv").read_bytes()


@pytest.mark.slow
def test_all_killed_and_three_go_on(whole, flags, tmp_path):
    out = tmp_path / "out"
    with torchrun(*flags, "--out", str(out), module=SLOWLY) as job:
        after(out / "features", 12, job)
        for pid in (*ranks(job), job.pid):
            os.kill(pid, signal.SIGKILL)
        ended(job)
    with torchrun(*flags, "--out", str(out), module=SLOWLY, n=3) as job:
        said = ended(job)
    assert job.returncode == 0, said
    assert said.count("clusters     4, of") == 1
    same(whole / "features", out / "features")


@pytest.mark.slow
def test_ctrl_c_is_told_once(flags, tmp_path):
    out = tmp_path / "out"
    with torchrun(*flags, "--out", str(out), module=SLOWLY) as job:
        after(out / "features", 4, job)
        os.kill(job.pid, signal.SIGINT)
        said = ended(job)
    assert said.count("shoal: stopped; rerun the same command to resume") == 1, said


@pytest.mark.slow
def test_a_broken_image_in_the_part_of_the_second_is_told_once(flags, tmp_path):
    with torchrun(*flags, "--strict", "--out", str(tmp_path / "out"), module=SLOWLY) as job:
        said = ended(job)
    assert job.returncode != 0
    assert said.count("shoal: ") == 1, said
    assert "cannot read the image 100.png (not an image)" in said
    assert "exitcode  : 2" in said


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_machine_that_vanishes_is_missed(flags, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-id", "1"]
    out = tmp_path / "out"
    with torchrun(*flags, "--out", str(out), module=SLOWLY, n=1, meeting=meeting) as stays:
        time.sleep(2)  # so that it is the one where both meet
        with torchrun(*flags, "--out", str(out), module=SLOWLY, n=1, meeting=meeting) as vanishes:
            after(out / "features", 4, stays)
            for pid in (vanishes.pid, *ranks(vanishes)):  # torchrun first, so that it cannot tell
                os.kill(pid, signal.SIGKILL)
            start = time.monotonic()
            said = ended(stays)
        assert time.monotonic() - start < 60
    assert "shoal: lost contact with process" in said, said
    assert "Run the same command again to resume" in said
    assert sum(done(out / "features")) >= 8
