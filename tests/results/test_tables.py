"""Who is in which cluster, and the images that stand for one: held to scikit-learn and to plain loops."""

import csv
import dataclasses
import os

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import pairwise_distances
from sklearn.mixture import GaussianMixture

from shoal.errors import UserError
from shoal.results import rows as rows_module
from shoal.results import tables as table_module
from shoal.results.representatives import PER_ROLE, representatives, write_representatives
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import check_suffix, read_assignments, write_assignments


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
    monkeypatch.setattr(rows_module, "CHUNK", 64)
    mixture = Mixture(rows, 4)
    centers = torch.from_numpy(mixture.inner.means_).float()
    found = assign_rows(rows, mixture, centers, metric)
    proba = mixture.predict_proba(rows)
    assert torch.equal(found.labels, proba.argmax(1))
    torch.testing.assert_close(found.confidence, proba.amax(1).float())
    far = torch.from_numpy(pairwise_distances(rows.double(), centers.double(), metric=metric))
    own = far.gather(1, found.labels[:, None])[:, 0]
    others = far.scatter(1, found.labels[:, None], torch.inf).amin(1)
    torch.testing.assert_close(found.distance.double(), own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.margin.double(), others - own, rtol=1e-4, atol=1e-5)
    assert (found.margin < 0).any()  # the mixture does not go by distance alone


def test_labels_of_the_fit_are_kept_and_one_cluster_has_no_other(rows):
    class Sure:
        def predict_proba(self, X):
            return torch.tensor([[0.25, 0.75]]).expand(len(X), 2)

    labels = torch.arange(300) % 2
    found = assign_rows(rows, Sure(), rows[:2], "euclidean", labels=labels)
    assert torch.equal(found.labels, labels)
    assert found.confidence[:2].tolist() == [0.25, 0.75]

    class Alone:
        def predict_proba(self, X):
            return torch.ones(len(X), 1)

    assert (assign_rows(rows, Alone(), rows[:1], "cosine").margin == torch.inf).all()


def some(n, k=3):
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(3, n, generator=draw)
    return Assignments(torch.arange(n) % k, *values, torch.rand(n, 2, generator=draw))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_table_holds_each_column_in_order(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(table_module, "ROWS", 4)
    found, ids = some(10), [f"ä{i}, b.png" for i in range(9)] + ["bad\udcff.png"]
    path = tmp_path / f"assignments.{ending}"
    write_assignments(found, ids, path, names={1: "café"}, targets=torch.arange(10) % 3 - 1, classes=("cat", "dog"))
    table = (pyarrow.csv.read_csv if ending == "csv" else pq.read_table)(path)
    assert table.column_names == ["id", "cluster", "name", "confidence", "distance", "margin", "x", "y", "label"]
    assert [name or None for name in table["name"].to_pylist()] == [None, "café", None] * 3 + [None]
    assert table["id"].to_pylist() == [*ids[:9], r"bad\udcff.png"]
    assert table["cluster"].to_pylist() == found.labels.tolist()
    for name in ("confidence", "distance", "margin"):
        np.testing.assert_allclose(table[name].to_numpy(), getattr(found, name), rtol=1e-6)
    np.testing.assert_allclose(np.stack([table["x"], table["y"]], 1), found.positions, rtol=1e-6)
    assert [label or None for label in table["label"].to_pylist()] == [None, "cat", "dog"] * 3 + [None]
    if ending == "parquet":
        assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_written_is_read_again(tmp_path):
    found, ids = some(7), [f"{i}.png" for i in range(7)]
    write_assignments(found, ids, tmp_path / "a.parquet", names={2: "birds"})
    again_ids, again, names = read_assignments(tmp_path / "a.parquet")
    assert (again_ids, names) == (ids, {2: "birds"})
    for name in ("labels", "confidence", "distance", "margin", "positions"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert torch.equal(again[torch.tensor([5, 1])].positions, found.positions[[5, 1]])


def test_without_labels_names_and_map_the_columns_are_empty(tmp_path):
    found = dataclasses.replace(some(3), positions=None)
    write_assignments(found, ["a", "b", "c"], tmp_path / "a.csv", targets=torch.full((3,), -1))
    with (tmp_path / "a.csv").open() as file:
        row = next(csv.DictReader(file))
    assert [row[name] for name in ("name", "x", "y", "label")] == [""] * 4


def test_central_images_differ_and_doubtful_ones_are_the_least_sure(rows, tmp_path):
    features = torch.cat([rows, rows[:1] * 1.001, rows[:1]])  # twice the first one again
    centers = rows[:2]
    labels = torch.from_numpy(pairwise_distances(features, centers).argmin(1))
    distance = torch.from_numpy(pairwise_distances(features, centers).min(1)).float()
    confidence = torch.rand(302, generator=torch.Generator().manual_seed(1)).mul(50).round().div(50)
    margin = torch.rand(302, generator=torch.Generator().manual_seed(2))
    found = representatives(features, Assignments(labels, confidence, distance, margin, torch.zeros(302, 2)))
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
    assert {one.role for one in representatives(rows, some(300, k=1))} == {"central"}


def write(path, ids, classes):
    n = len(ids)
    found = Assignments(torch.arange(n), torch.zeros(n), torch.zeros(n), torch.zeros(n))
    write_assignments(found, ids, path, targets=torch.arange(n) - 1, classes=classes)


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "a.csv", "a.CSV"])
def test_names_that_are_not_utf8_stay_apart(tmp_path, name):
    raw = [b"bad\xff.png", b"bad\xfe.png", "größe, 1.png".encode()]
    write(tmp_path / name, [os.fsdecode(one) for one in raw], (os.fsdecode(b"caf\xe9"), "café"))
    read = pyarrow.csv.read_csv if name.lower().endswith(".csv") else pq.read_table
    table = read(tmp_path / name)
    assert table["id"].to_pylist() == [r"bad\udcff.png", r"bad\udcfe.png", "größe, 1.png"]
    assert [label or None for label in table["label"].to_pylist()] == [None, r"caf\udce9", "café"]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"should end in \.parquet or \.csv"):
        check_suffix(tmp_path / "a.txt")
