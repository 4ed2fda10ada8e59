"""Images that repeat: fewer of them differ than there are clusters asked for, and every step lives with it."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.examples import SMALL
from tests.results.conftest import BACKBONE
from tests.runs import new_run, reopened, tiny_config

import shoal
from shoal.cli.main import main
from shoal.clustering.kmeans import assign
from shoal.methods import PCLConfig
from shoal.progress import Progress
from shoal.results.result import Result
from shoal.results.train import finished_run, write_result
from shoal.training import fit
from shoal.types import Images

DIFFERENT, COPIES, ASKED = 8, 6, 20

METHODS = {name: config for name, config in SMALL.items() if ", " not in name} | {
    "pcl": PCLConfig(dim=8, queue=50, momentum=0.9, granularities=(12, 30))
}
"""All seven; PCL with more prototypes than images that differ."""


def pixels():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (DIFFERENT, 3, 8, 8), dtype=torch.uint8, generator=generator)


def repeated():
    """Each of the different images this many times."""
    n = DIFFERENT * COPIES
    classes = torch.arange(n) % 3
    ids = [f"{i:02}.png" for i in range(n)]
    return Images(pixels().repeat_interleave(COPIES, 0), classes, torch.ones(n, dtype=torch.bool), ("a", "b", "c"), ids)


def config_of(method, **changes):
    return dataclasses.replace(tiny_config(n_clusters=ASKED, method=method), **changes)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "name", [name if name in ("propos", "cc") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_trains_resumes_and_ends_with_the_clusters_that_have_images(tmp_path, name):
    run = new_run(tmp_path / "run", config_of(METHODS[name], resample=True, epochs=1, cluster_from=0), repeated())
    fit(run, Progress())
    assert all(torch.isfinite(clustering.centers).all() for clustering in run.clusterings)
    finished = finished_run(reopened(run.folder.path, repeated()))
    k = len(finished.trained.centers)
    assert 1 <= k < ASKED
    if name != "cc":  # whose head decides
        assert k == DIFFERENT
        torch.testing.assert_close(finished.distances, torch.zeros(len(run.images)), rtol=0, atol=1e-5)
    assert finished.labels.unique().tolist() == list(range(k))
    assert torch.equal(assign(finished.features, finished.trained.centers, "cosine")[0], finished.labels)
    assert torch.equal(finished.clusterer.predict(finished.features), finished.labels)
    rows = run.folder.read_metrics()
    assert rows[-1]["clusters"] == k
    assert rows[-1]["smallest"] == 0
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("name", ["propos", "cc"])
def test_the_result_of_a_run_says_how_many_there_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run = new_run(tmp_path / "run", config_of(METHODS[name], epochs=1), repeated())
    fit(run, Progress())
    outcome = write_result(finished_run(run), run.images, run.folder)
    result = Result.load(tmp_path / "run")
    k = len(result.centers)
    assert outcome.n_clusters == k
    assert result.asked == ASKED
    why = "but only 8 images differ" if k >= DIFFERENT else f"and the other {ASKED - k} are empty"
    assert outcome.as_text(run.folder).startswith(f"clusters     {k}, of 48; 20 were asked for, {why}\n")
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{ASKED - k} more were asked for and are empty" in page
    assert {row["cluster"] for row in table(run.folder.representatives)} == {str(cluster) for cluster in range(k)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The repeated images as files, in a folder for each of three classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    for number, image in enumerate(pixels()):
        for copy in range(COPIES):
            path = tmp_path / "photos" / f"class-{number % 3}" / f"{number}-{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize("method", ["kmeans", pytest.param("gmm", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("no_umap", "folder")
def test_every_command_lives_with_fewer_clusters(tmp_path, weights, capsys, method):
    network = ["--backbone.name", BACKBONE, "--backbone.weights", str(weights)]
    assert main(["cluster", "photos", "-k", str(ASKED), "--method", method, *network, "--out", "result"]) == 0
    assert "clusters     8, of 48; 20 were asked for, but only 8 images differ\n" in capsys.readouterr().out
    found = table(tmp_path / "result" / "assignments.csv")
    assert {row["cluster"] for row in found} == {str(cluster) for cluster in range(DIFFERENT)}
    assert min(float(row["confidence"]) for row in found) > 0.99
    assert min(float(row["margin"]) for row in found) > 0

    assert main(["predict", "result", "photos", "--out", "again.csv"]) == 0
    assert capsys.readouterr().out == "48 images in 8 clusters: again.csv\n"
    assert [row["cluster"] for row in table(tmp_path / "again.csv")] == [row["cluster"] for row in found]

    assert main(["sort", "result", "--copy", "sorted", "--yes"]) == 0
    sizes = [len(list(each.iterdir())) for each in (tmp_path / "sorted").iterdir() if each.is_dir()]
    assert sizes == [COPIES] * DIFFERENT

    assert main(["report", "result"]) == 0
    page = (tmp_path / "result" / "report.html").read_text()
    assert "6 to 6 images each; 12 more were asked for and are empty" in page
    assert f"-k {ASKED} --method {method}" in page

    assert main(["evaluate", "result"]) == 0
    figures = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert figures["clusters"] == DIFFERENT
    assert figures["signals"]["smallest"] == pytest.approx(1 / DIFFERENT)
    assert figures["scores"]["purity"] == 1


def test_features_that_repeat(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    different = np.random.default_rng(0).normal(size=(DIFFERENT, 16)).astype(np.float32)
    np.save("rows.npy", different.repeat(COPIES, 0))
    assert main(["cluster", "rows.npy", "-k", str(ASKED), "--metric", "euclidean", "--out", "result"]) == 0
    said = capsys.readouterr().out
    assert "clusters     8, of 48; 20 were asked for, and the other 12 are empty\n" in said
    assert np.load(tmp_path / "result" / "centers.npy").shape == (DIFFERENT, 16)
    assert main(["predict", "result", "rows.npy", "--out", "again.csv"]) == 0
    found, again = (table(tmp_path / each) for each in ("result/assignments.csv", "again.csv"))
    assert [row["cluster"] for row in again] == [row["cluster"] for row in found]
    assert min(float(row["confidence"]) for row in found) == 1


def test_an_estimator_has_a_centre_for_each_of_its_labels(folder):
    settings = {"backbone.width": 4, "backbone.depth": 1, "method.hidden": 16, "method.dim": 8, "data.size": 8}
    model = shoal.BYOL(n_clusters=ASKED, epochs=1, settings={**settings, "optim.warmup_epochs": 0}).fit(folder)
    assert len(model.cluster_centers_) == DIFFERENT
    assert np.unique(model.labels_).tolist() == list(range(DIFFERENT))
    assert np.array_equal(model.predict(folder), model.labels_)
