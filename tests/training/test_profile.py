"""Where the time of a step goes."""

from __future__ import annotations

import json
import re

import pytest
from tests.commands import complaint
from tests.runs import new_run, same_files, tiny_config, tiny_recipe

from shoal.cli.main import main
from shoal.progress import Progress
from shoal.training import fit
from shoal.training.profile import PARTS, Profile, table


def test_the_table_adds_up_to_the_step():
    seconds = {"augment": 1.0, "forward": 2.0, "backward": 4.0, "optimiser": 1.0, "target": 1.0}
    text = table(seconds, whole=0.5, n=20, batch_size=100)
    rows = {
        row[0]: (float(row[1]), float(row[2])) for row in re.findall(r"^(.+?)\s+([\d.]+)\s+([\d.]+) %$", text, re.M)
    }
    assert rows["forward"] == (100, 20)
    assert rows["host wait"] == (50, 10)
    assert rows["step"] == (500, 100)
    assert sum(share for name, (_, share) in rows.items() if name != "step") == pytest.approx(100)
    assert "200 images/s" in text


@pytest.mark.slow
def test_a_profiled_run_is_the_same_run_and_leaves_table_and_trace(tmp_path):
    config = tiny_config(epochs=6)
    fit(new_run(tmp_path / "plain", config), Progress())
    run = new_run(tmp_path / "profiled", config)
    with Profile(3) as profile:
        fit(run, Progress(), [profile])
    same_files(tmp_path / "plain", tmp_path / "profiled")
    for name in (*PARTS, "host wait", "step"):
        assert re.search(rf"^{name} +[\d.]+ ", run.folder.profile.read_text(), re.M), name
    events = json.loads(run.folder.trace.read_text())["traceEvents"]
    seen = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    for name in PARTS:
        assert seen.count(name) == 3 * (2 if name == "target" else 1), name


@pytest.mark.slow
def test_a_run_that_is_too_short_says_so(tmp_path, capsys):
    recipe, out = str(tiny_recipe(tmp_path)), tmp_path / "run"
    assert main(["train", recipe, "--max-steps", "8", "--profile", "20", "--out", str(out), "--quiet"]) == 0
    assert "ended before --profile had seen its 20 steps" in complaint(capsys)
    assert not (out / "profile.txt").exists()


def test_a_profile_of_no_steps_is_refused(tmp_path, capsys):
    assert main(["train", str(tiny_recipe(tmp_path)), "--profile", "0", "--out", str(tmp_path / "run")]) == 2
    assert "--profile 0 must be the number of steps" in complaint(capsys)
    assert not (tmp_path / "run").exists()
