"""UMAP of features; slow, because it compiles itself for many seconds when imported."""

import sys
import types

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from tests.clustering.refusing import refused

from shoal.clustering import neighbours
from shoal.clustering import umap as manifold
from shoal.clustering.umap import umap_embedding


def groups(n=150, k=3, d=16, seed=0):
    """Rows around far centres, of lengths that tell the cosine from Euclidean distance, and their group."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    rows = torch.randn(k, d, generator=g)[labels] + 0.1 * torch.randn(n, d, generator=g)
    return rows * (0.1 + torch.rand(n, 1, generator=g)), labels


@pytest.fixture(scope="module")
def embedded():
    features, labels = groups()
    return umap_embedding(features, metric="cosine", seed=0), labels


@pytest.mark.slow
def test_separate_groups_stay_separate(embedded):
    points, labels = embedded
    assert points.shape == (150, 3)
    assert points.dtype == torch.float32
    found = KMeans(3, n_init=10, random_state=0).fit_predict(points.numpy())
    assert adjusted_rand_score(labels, found) == 1


@pytest.mark.parametrize("unit", [1e200, 1e-200, 1e100, 1e-100])
def test_rows_beyond_float32(unit, monkeypatch):
    """UMAP computes in float32: directions are brought there, and distances that it cannot hold are refused."""
    seen = []

    class Stand:
        def __init__(self, **settings):
            pass

        def fit_transform(self, x):
            seen.append(x)
            return x[:, :3]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Stand))
    features = groups()[0].double()
    umap_embedding(features * unit, metric="cosine", seed=0)
    expected = features / torch.linalg.vector_norm(features, dim=1, keepdim=True)
    np.testing.assert_allclose(seen[0] / np.linalg.norm(seen[0], axis=1, keepdims=True), expected, atol=1e-6)
    refused(umap_embedding, features * unit, metric="euclidean", seed=0, match="overflow" if unit > 1 else "vanish")


@pytest.mark.slow
def test_a_seed_repeats_it_and_another_does_not(embedded):
    features, _ = groups()
    torch.testing.assert_close(umap_embedding(features, metric="cosine", seed=0), embedded[0], rtol=0, atol=0)
    assert not torch.equal(umap_embedding(features, metric="cosine", seed=1), embedded[0])
    assert not torch.equal(umap_embedding(features, metric="euclidean", seed=0), embedded[0])


@pytest.mark.slow
def test_a_seed_may_be_as_large_as_a_runs():
    features, _ = groups(30)
    assert umap_embedding(features, metric="cosine", seed=2**63 - 1).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 4, 12, 21])
def test_a_few_rows(n):
    features, _ = groups(n)
    points = umap_embedding(features.double(), metric="euclidean", seed=0)
    assert points.shape == (n, 3)
    assert points.isfinite().all()


@pytest.mark.slow
def test_identical_rows():
    assert umap_embedding(torch.ones(40, 5), metric="cosine", seed=0).isfinite().all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_rows_are_scikit_learns(metric, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 16 * 150 * 3)  # in several parts
    features = groups()[0] + 20.0
    numbers, distances = manifold.nearest_rows(features, 10, metric)
    peer = NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute").fit(features.double().numpy())
    expected, expected_numbers = peer.kneighbors(features.double().numpy())
    np.testing.assert_allclose(distances, expected, atol=1e-6 if metric == "cosine" else 1e-4)
    assert (numbers == expected_numbers).mean() > 0.98
