"""Who is in which cluster, and the images that stand for one: held to scikit-learn and to plain loops."""

import csv

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import pairwise_distances
from sklearn.mixture import GaussianMixture

from shoal.results import rows as assigned_module
from shoal.results import tables as table_module
from shoal.results.representatives import PER_ROLE, representatives, write_representatives
from shoal.results.rows import Assigned, assigned
from shoal.results.tables import write_assigned


class Mixture:
    """scikit-learn's mixture, asked with tensors."""

    def __init__(self, rows, k):
        self.inner = GaussianMixture(k, covariance_type="full", random_state=0).fit(rows.numpy())

    def predict_proba(self, X):
        return torch.from_numpy(self.inner.predict_proba(X.numpy()))


@pytest.fixture
def rows():
    return torch.from_numpy(make_blobs(300, 5, centers=4, cluster_std=[1, 5, 2, 4], random_state=1)[0]).float()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_are_scikit_learns_and_clusters_the_most_probable(rows, metric, monkeypatch):
    monkeypatch.setattr(assigned_module, "CHUNK", 64)
    mixture = Mixture(rows, 4)
    centers = torch.from_numpy(mixture.inner.means_).float()
    found = assigned(rows, mixture, centers, metric, torch.zeros(300, 2))
    proba = mixture.predict_proba(rows)
    assert torch.equal(found.clusters, proba.argmax(1))
    torch.testing.assert_close(found.confidence, proba.amax(1).float())
    far = torch.from_numpy(pairwise_distances(rows.double(), centers.double(), metric=metric))
    own = far.gather(1, found.clusters[:, None])[:, 0]
    others = far.scatter(1, found.clusters[:, None], torch.inf).amin(1)
    torch.testing.assert_close(found.distance.double(), own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.margin.double(), others - own, rtol=1e-4, atol=1e-5)
    assert (found.margin < 0).any()  # the mixture does not go by distance alone


def test_labels_of_the_fit_are_kept_and_one_cluster_has_no_other(rows):
    class Sure:
        def predict_proba(self, X):
            return torch.tensor([[0.25, 0.75]]).expand(len(X), 2)

    labels = torch.arange(300) % 2
    found = assigned(rows, Sure(), rows[:2], "euclidean", torch.zeros(300, 2), labels)
    assert torch.equal(found.clusters, labels)
    assert found.confidence[:2].tolist() == [0.25, 0.75]

    class Alone:
        def predict_proba(self, X):
            return torch.ones(len(X), 1)

    assert (assigned(rows, Alone(), rows[:1], "cosine", torch.zeros(300, 2)).margin == torch.inf).all()


def some(n, k=3):
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(3, n, generator=draw)
    return Assigned(torch.arange(n) % k, *values, torch.rand(n, 2, generator=draw))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_table_holds_each_column_in_order(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(table_module, "ROWS", 4)
    found, ids = some(10), [f"ä{i}, b.png" for i in range(9)] + ["bad\udcff.png"]
    path = tmp_path / f"assignments.{ending}"
    write_assigned(found, ids, path, labels=torch.arange(10) % 3 - 1, classes=("cat", "dog"))
    table = (pyarrow.csv.read_csv if ending == "csv" else pq.read_table)(path)
    assert table.column_names == ["id", "cluster", "confidence", "distance", "margin", "x", "y", "label"]
    assert table["id"].to_pylist() == [*ids[:9], r"bad\udcff.png"]
    assert table["cluster"].to_pylist() == found.clusters.tolist()
    for name in ("confidence", "distance", "margin"):
        np.testing.assert_allclose(table[name].to_numpy(), getattr(found, name), rtol=1e-6)
    np.testing.assert_allclose(np.stack([table["x"], table["y"]], 1), found.places, rtol=1e-6)
    assert [label or None for label in table["label"].to_pylist()] == [None, "cat", "dog"] * 3 + [None]
    if ending == "parquet":
        assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_no_label_column_without_classes(tmp_path):
    write_assigned(some(3), ["a", "b", "c"], tmp_path / "a.csv", labels=torch.full((3,), -1))
    assert "label" not in (tmp_path / "a.csv").read_text()


def test_central_images_differ_and_doubtful_ones_are_the_least_sure(rows, tmp_path):
    features = torch.cat([rows, rows[:1] * 1.001, rows[:1]])  # twice the first one again
    centers = rows[:2]
    labels = torch.from_numpy(pairwise_distances(features, centers).argmin(1))
    distance = torch.from_numpy(pairwise_distances(features, centers).min(1)).float()
    confidence = torch.rand(302, generator=torch.Generator().manual_seed(1)).mul(50).round().div(50)
    margin = torch.rand(302, generator=torch.Generator().manual_seed(2))
    found = representatives(features, Assigned(labels, confidence, distance, margin, torch.zeros(302, 2)), 3)
    for cluster in (0, 1):
        own = [one for one in found if one.cluster == cluster]
        central = [one.row for one in own if one.role == "central"]
        assert central[0] == cluster
        assert [float(distance[i]) for i in central] == sorted(float(distance[i]) for i in central)
        alike = torch.nn.functional.cosine_similarity(features[central][:, None], features[central][None], dim=2)
        assert (alike.fill_diagonal_(0) < 0.95).all()
        rest = sorted(set((labels == cluster).nonzero()[:, 0].tolist()) - set(central))
        rest.sort(key=lambda i: (float(confidence[i]), float(margin[i])))
        assert [one.row for one in own if one.role == "doubtful"] == rest[:PER_ROLE]
    assert not {300, 301} & {one.row for one in found if one.role == "central"}
    write_representatives(found, [f"{i}.png" for i in range(302)], tmp_path / "representatives.csv")
    with (tmp_path / "representatives.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first == {"cluster": "0", "role": "central", "rank": "1", "id": "0.png"}


def test_a_single_cluster_has_no_doubtful_images(rows):
    assert {one.role for one in representatives(rows, some(300, k=1), 1)} == {"central"}
