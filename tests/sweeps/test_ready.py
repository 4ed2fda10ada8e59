"""What would stop a run is found before the first one begins."""

from dataclasses import replace

import pytest
from tests.runs import tiny_config, tiny_recipe

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.sweeps.grid import Point, parse_grid, plan
from shoal.sweeps.ready import check_ready


def points(tmp_path, *words):
    """Runs of the tiny recipe."""
    return plan([str(tiny_recipe(tmp_path))], [0, 1], parse_grid(words))


def test_runs_that_can_start_are_told_nothing(tmp_path):
    check_ready(points(tmp_path, "optim.lr=0.1,0.2"))
    check_ready(plan(["propos-digits"], [0], parse_grid(["optim.lr=0.1"])))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("backbone.weights='',none.safetensors", "there is no weights file .*none.safetensors"),
        ("backbone.weights=bad.safetensors", "cannot read the weights .*bad.safetensors"),
        ("backbone.weights=other.pth", "shoal convert"),
        ("backbone.name=small,resnet19", "there is no backbone named 'resnet19'"),
        ("data.path=pictures,nowhere", "there is no file or folder .*nowhere"),
        ("data.path=pictures,empty", "empty"),
        ("n_clusters=4,201", "201 clusters need at least as many images, and there are 200"),
    ],
)
def test_a_run_that_cannot_start_is_told_before_any_has(word, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    (tmp_path / "other.pth").write_bytes(b"a pickle")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"the run \S+ cannot start, so nothing was trained: .*{sentence}"):
        check_ready(points(tmp_path, word))


def test_the_command_says_it_and_writes_nothing(tmp_path, capsys):
    words = ["--grid", f"backbone.weights={tmp_path}/none.safetensors", "--out", str(tmp_path / "out")]
    assert main(["sweep", str(tiny_recipe(tmp_path)), "--seeds", "0", *words]) == 2
    assert "cannot start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_runs_share_is_looked_at_once(monkeypatch):
    looked = []
    monkeypatch.setattr("shoal.sweeps.ready.check_weights", looked.append)
    config = tiny_config()
    check_ready([Point(str(seed), "r", {}, seed, replace(config, seed=seed)) for seed in range(3)])
    other = replace(config, optim=replace(config.optim, lr=0.7))
    check_ready([Point("a", "r", {}, 0, config), Point("b", "r", {}, 0, other)])
    assert len(looked) == 2
