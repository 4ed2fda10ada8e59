"""All figures of a result, from what its folder keeps."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.metrics import adjusted_rand_score
from tests.runs import beside, new_run, tiny_config, tiny_images, tiny_recipe

from shoal.cli.main import main
from shoal.methods import CCConfig
from shoal.progress import Progress
from shoal.results import run_images
from shoal.results import train as workflow
from shoal.results.evaluate import evaluate
from shoal.results.result import Result
from shoal.training.trained import Trained

DISPERSION = {"davies_bouldin", "calinski_harabasz"}
pytestmark = pytest.mark.usefixtures("no_umap")


def evaluated(run, monkeypatch, **options):
    """The figures of a run, whose images no path leads to."""
    monkeypatch.setattr(Result, "images", None)
    monkeypatch.setattr(run_images, "images_of", lambda *_, **__: run.images)
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


@pytest.mark.slow
def test_an_updated_run_is_measured_on_the_images_as_they_are_now(tmp_path, caplog):
    """One image comes, one is replaced, one leaves, and two of another folder join."""
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--out", str(tmp_path / "own")]) == 0
    pictures = tmp_path / "pictures"
    paths = sorted(pictures.rglob("*.png"))
    shutil.copy(paths[7], pictures / "class 0/a copy.png")
    shutil.copy(paths[9], paths[60])
    paths[40].unlink()
    (tmp_path / "more").mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(paths[3], tmp_path / "more" / name)
    assert main(["evaluate", str(tmp_path / "own")]) == 0
    assert "figures that need the images are left out: 2 images are gone, renamed or changed since" in caplog.text
    assert main(["update", str(tmp_path / "own")]) == 0
    assert main(["update", str(tmp_path / "own"), str(tmp_path / "more")]) == 0
    caplog.clear()
    assert main(["evaluate", str(tmp_path / "own"), "--knn"]) == 0
    assert "left out" not in caplog.text
    result = Result.load(tmp_path / "own")
    figures = json.loads((tmp_path / "own/evaluation.json").read_text())
    assert [plain["of"] for plain in figures["baselines"]] == ["features", "features", "pixels", "pixels"]
    now = run_images.images_of_run(result, Trained.load(tmp_path / "own"), Progress())
    size = now.pixels.shape[-1]
    files = [tmp_path / name if name.startswith("more/") else pictures / name for name in result.ids]
    assert len(files) == len(paths) + 2
    for file, pixels in zip(files, now.pixels, strict=True):
        with Image.open(file) as image:
            assert image.size == (size, size)
            assert np.array_equal(np.asarray(image.convert("RGB")), pixels.permute(1, 2, 0))
