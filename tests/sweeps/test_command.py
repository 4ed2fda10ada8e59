"""``shoal sweep`` as its users meet it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.commands import complaint
from tests.runs import tiny_recipe

from shoal.cli.main import main
from shoal.folder import ResultFolder


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "sweep"
    words = ["--seeds", "0..1", "--grid", "optim.lr=0.1,0.2", "--out", str(out), "--dry-run"]
    assert main(["sweep", "propos-digits", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["new", str(out / "propos-digits_optim.lr=0.1_seed=0")]
    assert lines[-1] == "4 runs, 0 of them done"
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a recipe first"),
        (["--grid", "optim.lr=1", "propos-digits"], "give a recipe first"),
        (["propos-digit"], "did you mean 'propos-digits'"),
        (["propos-digits", "--jobs", "0"], "give 1 or more"),
        (["propos-digits", "--sed", "1"], "did you mean '--seeds'"),
        (["propos-digits", "--seeds", "4..0"], "give 0..4"),
        (["propos-digits", "--grid", "optim.lrr=1"], "did you mean 'optim.lr'"),
    ],
)
def test_what_is_no_sweep(words, said, capsys):
    assert main(["sweep", *words]) == 2
    assert said in complaint(capsys)


def test_a_sweep_starts_its_own_processes(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sweep", "propos-digits", "--out", str(tmp_path)]) == 2
    assert "without torchrun" in complaint(capsys)


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["sweep", "propos-digits", "--out", str(tmp_path / "file")]) == 2
    assert "cannot write" in complaint(capsys)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("own_cache")
def test_a_sweep_is_killed_resumed_and_compared(tmp_path, capsys):
    recipe, out = tiny_recipe(tmp_path), tmp_path / "sweep"
    words = ["sweep", str(recipe), "--seeds", "0..1", "--grid", "epochs=40", "--jobs", "2"]
    words += ["--out", str(out)]
    first = subprocess.Popen([sys.executable, "-m", "shoal", *words], stderr=subprocess.PIPE, text=True)
    while not any(out.glob("*/metrics.jsonl")):
        time.sleep(0.05)
    first.kill()
    first.communicate()
    while True:  # until the orphaned runs have saved, the folder is locked
        done = subprocess.run([sys.executable, "-m", "shoal", *words], capture_output=True, text=True)
        if "another process" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr
    members = json.loads((out / "sweep.json").read_text())["runs"]
    assert len(members) == 2
    for member in members:
        rows = ResultFolder(out / member["name"]).read_metrics()
        assert [row["epoch"] for row in rows] == list(range(41))
    assert main(["compare", str(out), "--out", str(tmp_path / "t.html")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[1].split()[:2] == ["tiny", "2"]
    again = subprocess.Popen([sys.executable, "-m", "shoal", *words[:3], "0..3", *words[4:]], stderr=subprocess.PIPE)
    while not (out / "tiny_epochs=40_seed=2" / "metrics.jsonl").exists():
        time.sleep(0.05)
    os.kill(again.pid, signal.SIGINT)
    _, errors = again.communicate()
    assert again.returncode == 128 + signal.SIGINT
    assert b"rerun the same command to resume" in errors
