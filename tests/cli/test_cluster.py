"""``shoal cluster`` as its users meet it: the folder it writes, what it prints, its exit status."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from shoal.cli.main import main
from shoal.clustering.kmeans import assign

pytestmark = pytest.mark.usefixtures("no_umap")


@pytest.fixture(autouse=True)
def labels(tmp_path, monkeypatch):
    """Features of four groups in the working folder, and the groups."""
    rows, labels = make_blobs(240, 3, centers=4, cluster_std=0.4, center_box=(-12, 12), random_state=0)
    np.save(tmp_path / "photos.npy", rows)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return labels


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_as_many_clusters_as_given(tmp_path, labels, capsys):
    assert main(["cluster", "photos.npy", "-k", "4", "--metric", "euclidean"]) == 0
    folder = tmp_path / "clusters" / "photos"
    tables = {"assignments.csv", "assignments.parquet", "representatives.csv"}
    assert {path.name for path in folder.iterdir()} == tables | {"centers.npy", "clustering.safetensors", "config.yaml"}
    rows = table(folder / "assignments.csv")
    assert [row["id"] for row in rows] == [str(i) for i in range(240)]
    clusters = [int(row["cluster"]) for row in rows]
    assert adjusted_rand_score(labels, clusters) == 1
    features = torch.from_numpy(np.load("photos.npy")).float()
    nearest, distances, margins = assign(features, torch.from_numpy(np.load(folder / "centers.npy")), "euclidean")
    assert nearest.tolist() == clusters
    np.testing.assert_allclose([float(row["distance"]) for row in rows], distances, rtol=1e-5)
    np.testing.assert_allclose([float(row["margin"]) for row in rows], margins, rtol=1e-5)
    said = capsys.readouterr().out
    assert "clusters     4, of 240\nmethod       k-means of all rows\nassignments  clusters/photos/assi" in said


def test_as_many_clusters_as_suit_them(tmp_path, labels, capsys):
    args = ["--k-range", "2", "9", "--metric", "euclidean", "--seed", "3", "--out", "found"]
    assert main(["cluster", "photos.npy", "-k", "auto", *args]) == 0
    assert adjusted_rand_score(labels, [row["cluster"] for row in table(tmp_path / "found" / "assignments.csv")]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^  4 +\d\.\d +\d+\.\d", said, re.M)
    assert "best k = 4, plausible from 4 to 4" in said
    found = json.loads((tmp_path / "found" / "suggestion.json").read_text())
    assert (found["format"], found["k"], found["interval"], found["clear"]) == (2, 4, [4, 4], True)
    assert found["candidates"][0]["k"] == 4
    assert {candidate["k"] for candidate in found["candidates"]} <= set(range(2, 10))
    page = (tmp_path / "found" / "suggestion.html").read_text()
    assert "How many clusters?" in page
    assert not re.search(r"<script|https?://", page)


@pytest.mark.parametrize("n", [1, 12])
def test_few_rows_are_one_cluster(tmp_path, capsys, n):
    np.save("few.npy", np.random.default_rng(0).normal(size=(n, 20)))
    assert main(["cluster", "few.npy"]) == 0
    assert {row["cluster"] for row in table(tmp_path / "clusters" / "few" / "assignments.csv")} == {"0"}
    said = capsys.readouterr().out
    assert ("nothing to cluster" if n == 1 else "choose -k") in said


def test_one_column_has_no_direction(tmp_path):
    """Two groups on a line; under the cosine, all would have the same direction."""
    np.save("line.npy", np.random.default_rng(0).normal(np.repeat([3, 9], 60), 0.4)[:, None])
    assert main(["cluster", "line.npy", "--k-range", "2", "5"]) == 0
    assert {row["cluster"] for row in table(tmp_path / "clusters" / "line" / "assignments.csv")} == {"0", "1"}


def test_digits_are_clustered_by_their_pixels(tmp_path, capsys):
    assert main(["cluster", "digits", "-k", "10"]) == 0
    assert "features     64 of each of 1797 rows, the pixels of the digits" in capsys.readouterr().out
    assert np.load(tmp_path / "clusters" / "digits" / "centers.npy").shape == (10, 64)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["photos/"], "there is no file or folder photos: did you mean photos.npy?"),
        (["missing.npy"], "cannot read missing.npy: No such file or directory."),
        (["zero.npy"], "zero.npy contains 1 row of zeros, which has no cosine: remove it."),
        (["nan.npy"], "nan.npy contains NaN or infinity in 1 of 30 rows: remove them."),
        (["photos.npy", "--out", "full"], "full exists and is not an empty folder: give another --out."),
        (["photos.npy", "-k", "3", "--k-range", "2", "5"], "-k 3 leaves no range to try: give --k-range with -k auto."),
        (["photos.npy", "-k", "999"], "240 rows are fewer than the 999 clusters asked for: lower -k."),
        (["missing.npy", "--k-range", "9", "3"], "--k-range 9 3 must be two numbers of clusters, 1 at least, the"),
        (["missing.npy", "--k-range", "0", "3"], "--k-range 0 3 must be two numbers of clusters, 1 at least, the"),
        (["photos.npy", "--k-range", "2", "999"], "k_range ends at 999: give at most 240, the number of rows"),
    ],
)
def test_mistakes(tmp_path, capsys, args, sentence):
    rows = np.random.default_rng(0).standard_normal((30, 16))
    np.save("images.npy", np.zeros((4, 8, 8)))
    np.save("zero.npy", np.vstack([rows, np.zeros(16)]))
    rows[2, 1] = np.nan
    np.save("nan.npy", rows)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    assert main(["cluster", *args]) == 2
    said = capsys.readouterr().err
    assert f"shoal: {sentence}" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "clusters").exists()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.float32])
@pytest.mark.parametrize("method", ["kmeans", "gmm", "umap-kmeans"])
def test_rows_far_from_0_keep_their_digits(tmp_path, dtype, method, capsys):
    """Such as times in seconds, of which float32 has one in 128; it holds what was rounded before."""
    far = 1e6 if dtype is np.float32 else 1.7e9
    group = np.repeat([0, 1, 2], 20)
    rows = np.array([[0.0, 0], [20, 0], [0, 20]])[group] + np.random.default_rng(0).normal(size=(60, 2)) + far
    np.save("far.npy", rows.astype(dtype))
    args = ["far.npy", "-k", "3", "--metric", "euclidean", "--method", method]
    assert main(["cluster", *args, "--out", "far"]) == 0
    assert adjusted_rand_score(group, [row["cluster"] for row in table(tmp_path / "far" / "assignments.csv")]) == 1
    assert main(["predict", "far", "far.npy", "--out", "again.csv"]) == 0
    assert adjusted_rand_score(group, [row["cluster"] for row in table(tmp_path / "again.csv")]) == 1
    assert not capsys.readouterr().err


def test_fewer_rows_that_differ_than_clusters(tmp_path, capsys, caplog):
    np.save("twice.npy", np.repeat(np.random.default_rng(0).normal(size=(7, 2)), 2, axis=0))
    assert main(["cluster", "twice.npy", "-k", "12", "--metric", "euclidean"]) == 0
    assert len({row["cluster"] for row in table(tmp_path / "clusters" / "twice" / "assignments.csv")}) == 7
    said = capsys.readouterr()
    assert "clusters     7, of 14; 12 were asked for, and the other 5 are empty" in said.out
    assert not said.err
    assert not caplog.text


@pytest.mark.parametrize("k", [pytest.param("3", marks=pytest.mark.slow), "auto"])
def test_rows_of_one_direction_are_one_cluster(tmp_path, k):
    column = np.random.default_rng(0).uniform(1, 9, (60, 1)).astype(np.float32)
    for name, rows in (("column", column), ("multiples", column * np.float32([1.1, 2.3, 3.7]))):
        np.save(f"{name}.npy", rows)
        assert main(["cluster", f"{name}.npy", "-k", k, "--metric", "cosine", "--out", name]) == 0
        assert {row["cluster"] for row in table(tmp_path / name / "assignments.csv")} == {"0"}


def test_rows_of_zeros_have_a_euclidean_distance(tmp_path):
    np.save("zero.npy", np.vstack([np.zeros((10, 4)), np.ones((10, 4))]))
    assert main(["cluster", "zero.npy", "-k", "2", "--metric", "euclidean"]) == 0
    assert len({row["cluster"] for row in table(tmp_path / "clusters" / "zero" / "assignments.csv")}) == 2
