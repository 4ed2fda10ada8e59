"""Where the time of a step goes."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest
import torch
from tests.commands import complaint
from tests.runs import new_run, reopened, same_files, tiny_config, tiny_recipe

from shoal.cli.main import main
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training.profile import PARTS, Profile, TimedParts, table


def test_the_parts_are_timed_apart():
    timed = TimedParts(torch.device("cpu"))
    for seconds in (0.01, 0.03):
        with timed.part("forward"):
            time.sleep(seconds)
        with timed.part("backward"):
            time.sleep(0.02)
    timed.keep(counts=True)
    with timed.part("forward"):
        time.sleep(0.02)
    timed.keep(counts=False)
    assert timed.seconds["forward"] == pytest.approx(0.04, abs=0.015)
    assert timed.seconds["backward"] == pytest.approx(0.04, abs=0.015)
    assert timed.seconds["target"] == 0


def test_the_table_adds_up_to_the_step():
    seconds = {"augment": 1.0, "forward": 2.0, "backward": 4.0, "optimiser": 1.0, "target": 1.0}
    text = table(seconds, parted=10.0, whole=8.0, n=20, batch_size=100)
    rows = {
        row[0]: (float(row[1]), float(row[2])) for row in re.findall(r"^(.+?)\s+([\d.]+)\s+([\d.]+) %$", text, re.M)
    }
    assert rows["forward"] == (100, 20)
    assert rows["host wait"] == (50, 10)
    assert rows["step"] == (500, 100)
    assert sum(share for name, (_, share) in rows.items() if name != "step") == pytest.approx(100)
    assert "400.00 ms, 250 images/s" in text


def test_a_profiled_run_is_the_same_run_and_leaves_table_and_trace(tmp_path):
    config = replace(tiny_config(), epochs=12)
    for name, log in (("plain", Progress()), ("profiled", Profile(3))):
        workflow.train(new_run(tmp_path / name, config), progress)
    same_files(tmp_path / "plain", tmp_path / "profiled")
    folder = reopened(tmp_path / "profiled").folder
    for name in (*PARTS, "host wait", "step"):
        assert re.search(rf"^{name} +[\d.]+ ", folder.profile.read_text(), re.M), name
    events = json.loads(folder.trace.read_text())["traceEvents"]
    seen = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    for name in PARTS:
        assert seen.count(name) >= 3, name


def test_a_run_that_is_too_short_says_so(tmp_path, capsys):
    recipe = str(tiny_recipe(tmp_path))
    assert (
        main(["train", recipe, "--max-steps", "8", "--profile", "20", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    )
    assert "ended before --profile had seen its 20 steps" in complaint(capsys)


def test_a_profile_of_no_steps_is_refused(tmp_path, capsys):
    assert main(["train", str(tiny_recipe(tmp_path)), "--profile", "0", "--out", str(tmp_path / "run")]) == 2
    assert "--profile 0 must be the number of steps" in complaint(capsys)
    assert not (tmp_path / "run").exists()
