"""The number of clusters is found while training."""

import dataclasses

import pytest
from tests.runs import Heard, StopAfter, new_run, reopened, same_files, tiny_config

from shoal.errors import UserError
from shoal.methods import BYOLConfig, CCConfig, PCLConfig
from shoal.progress import Progress
from shoal.results.result import Result
from shoal.results.train import train
from shoal.training import fit
from shoal.training.dry_run import forecast
from shoal.training.run import Interrupted
from shoal.training.trained import Trained


@pytest.fixture
def suggested(monkeypatch):
    """The suggestions of the E-steps to come: 3, then 5, then 7 …"""
    asked = []

    def suggest(features, k_range, **_):
        asked.append(len(features))
        found = type("Suggestion", (), {"k": 1 + 2 * len(asked), "interval": (2, 9)})
        assert k_range == (2, len(features))
        return found

    monkeypatch.setattr("shoal.training.loop.suggest_k", suggest)
    return asked


def test_it_stays_once_the_losses_use_it(tmp_path, suggested):
    config = dataclasses.replace(tiny_config(n_clusters="auto"), epochs=4, cluster_from=2)
    run, heard = new_run(tmp_path / "run", config), Heard()
    _, outcome = train(run, heard)
    assert len(suggested) == 2  # before epochs 1 and 2, whose losses are the first to use it
    assert run.method.granularities == (5,)
    assert outcome.n_asked == 5
    assert [line.split()[1].rstrip(",") for line in heard.lines] == ["3", "5"]
    assert "from epoch 3 on" in heard.lines[1]
    assert [row.get("clusters") for row in run.folder.read_metrics()] == [None, 3, 5, 5, 5]
    assert Result.load(tmp_path / "run").asked == 5
    assert Trained.load(tmp_path / "run").n_clusters == 5
    assert "n_clusters: auto" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_resumed_run_keeps_it(tmp_path, steps):
    config = tiny_config(n_clusters="auto")
    fit(new_run(tmp_path / "whole", config), Progress())
    with pytest.raises(Interrupted):
        fit(new_run(tmp_path / "broken", config), Progress(), [StopAfter(steps)])
    fit(reopened(tmp_path / "broken"), Progress())
    same_files(tmp_path / "whole", tmp_path / "broken")
    assert reopened(tmp_path / "whole").n_clusters == reopened(tmp_path / "broken").n_clusters >= 2


def test_losses_without_it_leave_it_open_to_the_end(tmp_path, suggested):
    method = BYOLConfig(hidden=16, dim=8, momentum=0.9)
    run = new_run(tmp_path / "byol", dataclasses.replace(tiny_config(n_clusters="auto"), method=method))
    fit(run, Progress())
    assert len(suggested) == 3
    assert run.n_clusters == len(run.clusterings[0].centers) == 7


def test_prototypes_of_the_same_number_stay(tmp_path, suggested):
    method = PCLConfig(granularities=(3, 5), queue=16, dim=8, momentum=0.9)
    config = dataclasses.replace(tiny_config(n_clusters="auto"), method=method, cluster_from=0)
    run = new_run(tmp_path / "pcl", config)
    fit(run, Progress())
    assert run.method.granularities == (3, 5)
    assert run.n_clusters == 1 + 2 * len(suggested)


def test_a_head_needs_it_before(tmp_path):
    config = dataclasses.replace(tiny_config(n_clusters="auto"), method=CCConfig(dim=8))
    with pytest.raises(UserError, match="give --n-clusters"):
        new_run(tmp_path / "cc", config)


def test_a_dry_run_reckons_with_some_number():
    assert "auto clusters" in forecast(tiny_config(n_clusters="auto"))["method"]
