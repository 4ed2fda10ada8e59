"""All figures of a result, from what its folder keeps."""

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.metrics import adjusted_rand_score
from tests.runs import beside, new_run, tiny_config, tiny_images

from shoal.methods import CCConfig
from shoal.progress import Progress
from shoal.results import evaluate as evaluate_module
from shoal.results import train as workflow
from shoal.results.evaluate import evaluate
from shoal.results.result import Result

DISPERSION = {"davies_bouldin", "calinski_harabasz"}
pytestmark = pytest.mark.usefixtures("no_umap")


def evaluated(run, monkeypatch, **options):
    """The figures of a run, whose images no path leads to."""
    monkeypatch.setattr(evaluate_module, "to_images", lambda *_, **__: run.images)
    return evaluate(Result.load(run.folder.path), Progress(), **options)


def test_a_run_is_measured_as_its_last_e_step_measured_it(tmp_path, monkeypatch):
    run = new_run(tmp_path, images=beside(tiny_images(), 12))
    workflow.train(run, Progress())
    assert (Result.load(tmp_path).assignments.labels >= 0).all()
    found = evaluated(run, monkeypatch)
    last = run.folder.read_metrics()[-1]
    signals = {name: value for name, value in found.signals.items() if name not in DISPERSION}
    assert signals == pytest.approx({name: last[name] for name in signals}, abs=1e-6)
    assert not {"ami", "purity", *DISPERSION} & last.keys()
    assert found.scores["acc"] == pytest.approx(last["acc"])
    assert [plain.of for plain in found.baselines] == ["features", "features", "pixels", "pixels"]


def test_beside_a_head_stand_plain_methods_on_the_backbone(tmp_path, monkeypatch):
    run = new_run(tmp_path, tiny_config(method=CCConfig(dim=8)))
    finished, _ = workflow.train(run, Progress())
    found = evaluated(run, monkeypatch)
    assert [plain.of for plain in found.baselines] == ["backbone", "backbone", "pixels", "pixels"]
    represented = torch.nn.functional.normalize(finished.trained.represent(run.images)).numpy()
    peer = SklearnKMeans(4, n_init=20, random_state=0).fit_predict(represented)
    assert found.baselines[0].scores["ari"] == pytest.approx(adjusted_rand_score(run.images.targets, peer), abs=0.05)
