"""A run that goes on for more epochs or steps, and clusters that would come too late."""

import dataclasses
import logging

import pytest
import torch
from tests.runs import RECIPE, StopAfter, new_run, reopened, tiny_config, tiny_images, tiny_recipe

import shoal
from shoal.cli.main import main
from shoal.config import load_recipe, with_reachable_clusters
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import METHODS
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.results.result import Result
from shoal.training import fit
from shoal.training.lengthen import lengthen
from shoal.training.optim import full_lr, lr_factor
from shoal.training.run import Interrupted
from shoal.training.settings import use_of_clusters


def rows(path):
    return [row for row in ResultFolder(path).read_metrics() if "loss" in row]


@pytest.mark.slow
def test_a_smoke_test_becomes_the_real_run(tmp_path):
    """40 images, 2 steps an epoch, 3 epochs."""
    workflow.train(new_run(tmp_path / "run", tiny_config(max_steps=3)), Progress())
    run = reopened(tmp_path / "run")
    assert "step 4 to 5" in lengthen(run, max_steps=5)
    workflow.train(run, Progress())
    run = reopened(tmp_path / "run")
    assert "step 6 to 6" in lengthen(run)
    workflow.train(run, Progress())
    assert run.steps_done == 6
    assert [(row["epoch"], row["steps"]) for row in rows(tmp_path / "run")] == [(0, 2), (1, 3), (1, 4), (2, 5), (2, 6)]
    assert load_recipe(str(tmp_path / "run" / "config.yaml")).max_steps is None
    assert Result.load(tmp_path / "run").folder.report.exists()


def test_terms_of_an_epoch_in_two_parts_are_means_of_each(tmp_path, monkeypatch):
    ones = {"psa": torch.ones(())}
    monkeypatch.setattr("shoal.training.loop.train_step", lambda _run, _pixels: ones)
    fit(new_run(tmp_path / "run", tiny_config(max_steps=3)), Progress())
    run = reopened(tmp_path / "run")
    lengthen(run)
    fit(run, Progress())
    assert [row["loss"] for row in rows(tmp_path / "run")] == [1.0] * 4


def test_a_finished_run_goes_on_by_the_longer_schedule(tmp_path):
    fit(new_run(tmp_path / "run"), Progress())
    run = reopened(tmp_path / "run")
    said = lengthen(run, epochs=6)
    assert "schedule of 6 epochs" in said
    assert "share of 6 epochs done" in said
    fit(run, Progress())
    optim = run.config.optim
    rates = [row["lr"] for row in rows(tmp_path / "run")]
    expected = [full_lr(16, optim) * lr_factor(2 * epoch + 1, 2, 3 if epoch < 3 else 6, optim) for epoch in range(6)]
    assert rates == pytest.approx(expected)
    assert f"{expected[2]:.3g}" in said


@pytest.mark.parametrize("moment", ["config", "state"])
def test_a_kill_between_state_and_config_costs_nothing(moment, tmp_path, monkeypatch):
    fit(new_run(tmp_path / "run"), Progress())
    run = reopened(tmp_path / "run")

    def killed(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        *(("shoal.training.lengthen.atomic_write", killed) if moment == "config" else (run, "save", killed))
    )
    with pytest.raises(KeyboardInterrupt):
        lengthen(run, epochs=6)
    monkeypatch.undo()
    again = reopened(tmp_path / "run")
    assert again.config.epochs == (6 if moment == "config" else 3)
    assert again.done == (moment == "state")
    lengthen(again, epochs=6)
    fit(again, Progress())
    assert again.steps_done == 12


def test_an_interrupted_run_keeps_its_limit(tmp_path):
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "run", tiny_config(max_steps=4)), Progress(), [StopAfter(3)])
    run = reopened(tmp_path / "run")
    assert lengthen(run) == ""
    fit(run, Progress())
    assert run.steps_done == 4


@pytest.mark.parametrize(
    ("asked", "sentence"), [({"epochs": 2}, "--epochs 2 ends it at 4"), ({"max_steps": 5}, "at 5")]
)
def test_less_than_what_is_done_is_refused(asked, sentence, tmp_path):
    fit(new_run(tmp_path / "run"), Progress())
    with pytest.raises(UserError, match=f"has done 6 steps.*{sentence}: give more"):
        lengthen(reopened(tmp_path / "run"), **asked)


def test_a_warm_up_as_long_as_the_run_is_refused(tmp_path):
    config = tiny_config()
    optim = dataclasses.replace(config.optim, schedule="epoch", warmup_epochs=2)
    fit(new_run(tmp_path / "run", dataclasses.replace(config, optim=optim, max_steps=1)), Progress())
    with pytest.raises(UserError, match="leaves nothing of 2 epochs"):
        lengthen(reopened(tmp_path / "run"), epochs=2)


def test_a_run_may_end_where_it_stands(tmp_path):
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "run"), Progress(), [StopAfter(4)])
    run = reopened(tmp_path / "run")
    assert "has done its 4 steps, and ends here" in lengthen(run, epochs=2)
    fit(run, Progress())
    assert (run.done, run.steps_done) == (True, 4)


def test_pcl_goes_on_between_two_e_steps(tmp_path):
    """The last E-step of a run has no prototypes."""
    method = METHODS["pcl"].config_class(granularities=(5, 7), queue=32)
    config = dataclasses.replace(tiny_config(cluster_from=0, cluster_every=5), method=method)
    fit(new_run(tmp_path / "run", config), Progress())
    run = reopened(tmp_path / "run")
    lengthen(run, epochs=4)
    fit(run, Progress())
    assert rows(tmp_path / "run")[-1]["proto_nce"] > 0


@pytest.mark.slow
def test_the_command_goes_on(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", str(tiny_recipe(tmp_path)), "--max-steps", "2", "--out", out]) == 0
    assert "not used yet: --max-steps 2 ends before epoch 2" in capsys.readouterr().err
    assert main(["train", "--resume", out, "--max-steps", "2"]) == 0
    assert "schedule" not in capsys.readouterr().err
    assert main(["train", "--resume", out, "--optim.lr", "2"]) == 2
    assert "exactly as it began, but for --epochs and --max-steps" in capsys.readouterr().err
    assert main(["train", "--resume", out, "--method.hidden", "8"]) == 2
    assert main(["train", "--resume", out, "--max-steps", "0"]) == 2
    assert main(["train", "--resume", out, "--max-steps", "1"]) == 2
    capsys.readouterr()
    assert main(["train", "--resume", out, "--max-steps", "4"]) == 0
    assert "step 3 to 4" in capsys.readouterr().err
    assert main(["train", "--resume", out, "--epochs", "1"]) == 0
    assert rows(tmp_path / "run")[-1]["steps"] == 6


def recipe(epochs, cluster_from, **changes):
    return dataclasses.replace(tiny_config(epochs=epochs, cluster_from=cluster_from), **changes)


@pytest.mark.parametrize(
    ("of_recipe", "asked", "first"),
    [
        ((100, 20), 20, 4),
        ((100, 20), 10, 2),
        ((100, 20), 3, 0),
        ((100, 20), 21, 20),
        ((100, 20), 300, 20),
        ((9, 9), 5, 9),
    ],
)
def test_clusters_are_reached_in_fewer_epochs(of_recipe, asked, first):
    base = recipe(*of_recipe)
    config, note = with_reachable_clusters(dataclasses.replace(base, epochs=asked), base, ["epochs"])
    assert config.cluster_from == first
    assert bool(note) == (first != base.cluster_from)


def test_methods_without_clusters_are_left_alone():
    base = recipe(100, 20, method=METHODS["byol"].config_class())
    assert with_reachable_clusters(dataclasses.replace(base, epochs=5), base, ())[0].cluster_from == 20
    assert use_of_clusters(base, 2) == ("", True)
    boosted = dataclasses.replace(base, method=METHODS["byol"].config_class(boost_from=0.85))
    assert use_of_clusters(boosted, 2) == ("the losses use them from epoch 86 of 100 on", True)
    odd = dataclasses.replace(base, epochs=20, cluster_from=0, method=METHODS["byol"].config_class(boost_from=0.55))
    assert use_of_clusters(odd, 2)[0] == "the losses use them from epoch 12 of 20 on"  # 0.55 · 20 is a little above 11
    assert "not used yet" in use_of_clusters(dataclasses.replace(boosted, max_steps=60), 2)[0]


def test_what_is_scaled_or_never_used_is_said(tmp_path, capsys, caplog):
    late = tiny_recipe(tmp_path, RECIPE.replace("cluster_from: 1", "cluster_from: 2"))
    assert main(["train", str(late), "--epochs", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "scaled to 1; --cluster-from sets another" in said
    assert "clusters     the losses use them from epoch 2 of 2 on" in said
    assert main(["train", str(late), "--epochs", "2", "--cluster-from", "2", "--dry-run"]) == 0
    assert "never used: --cluster-from 2 is past the last of 2 epochs" in capsys.readouterr().out
    with caplog.at_level(logging.WARNING, "shoal"):
        model = shoal.ProPos(4, epochs=1, recipe=str(late)).fit(tiny_images(200))
    assert "it is scaled to 0" in caplog.text
    assert model._finished.trained.config.cluster_from == 0
    with caplog.at_level(logging.WARNING, "shoal"):
        shoal.ProPos(4, epochs=1, recipe=str(late), settings={"cluster_from": 2}).fit(tiny_images(200))
    assert "never used" in caplog.text
