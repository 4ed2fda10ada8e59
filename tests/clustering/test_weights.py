"""Weights count wherever k-means looks at rows: samples, seeds, swaps, relocation, convergence."""

import numpy as np
import pytest
import sklearn.cluster
from sklearn.metrics import adjusted_rand_score

from shoal.clustering import KMeans, MiniBatchKMeans

MANY = 17_000
"""Of more than 16 384 rows the seeds are found on a sample."""

SQUARE = np.array([[0.0, 0], [8, 0], [0, 8], [8, 8]])


def square(n, seed):
    generator = np.random.default_rng(seed)
    return SQUARE[generator.integers(0, 4, n)] + generator.normal(size=(n, 2))


@pytest.mark.parametrize("seed", [0, 1])
def test_far_rows_of_little_weight_distort_nothing(seed):
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(8, 6)) * 6
    group = generator.integers(0, 8, MANY)
    x = centers[group] + generator.normal(size=(MANY, 6))
    far = generator.random(MANY) < 0.05
    x[far] += generator.normal(size=(far.sum(), 6)) * 40
    weights = np.where(far, 1e-3, 1.0)
    found = KMeans(8, n_init=3, random_state=seed).fit(x, sample_weight=weights)
    peer = sklearn.cluster.KMeans(8, n_init=3, random_state=seed).fit(x, sample_weight=weights)
    assert found.inertia_ < 1.02 * peer.inertia_
    assert adjusted_rand_score(group[~far], found.labels_[~far]) > 0.98


def test_a_few_heavy_rows_decide():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(MANY, 3))
    heavy = np.arange(0, MANY, 1700)
    weights = np.ones(MANY)
    weights[heavy] = 1e7
    found = KMeans(len(heavy), random_state=0).fit(x, sample_weight=weights)
    np.testing.assert_allclose(np.sort(found.cluster_centers_[:, 0]), np.sort(x[heavy, 0]), atol=0.02)


@pytest.mark.parametrize("n", [400, MANY])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_rows_of_weight_0_change_nothing(n, init):
    x = square(n, seed=0)
    beyond = np.concatenate([x, np.random.default_rng(1).normal(size=(5, 2)) * 1e4])
    weights = np.r_[np.ones(n), np.zeros(5)]
    found = KMeans(4, init=init, random_state=0).fit(beyond, sample_weight=weights)
    assert found.inertia_ == pytest.approx(KMeans(4, init=init, random_state=0).fit(x).inertia_, rel=1e-3)
    assert np.abs(found.cluster_centers_).max() < 12


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_empty_clusters_move_to_rows_that_count(scale):
    x = np.concatenate([square(400, seed=0), np.random.default_rng(1).normal(size=(5, 2)) * 1e4])
    weights = np.r_[np.ones(400), np.zeros(5)]
    start = np.array([[0, 0], [8, 0], [1e3, 1e3], [-1e3, 1e3]]) * scale
    found = KMeans(4, init=start).fit(x, sample_weight=weights)
    assert np.abs(found.cluster_centers_).max() < 12
    assert found.n_iter_ < 300
    assert set(found.labels_) == {0, 1, 2, 3}


def test_equal_rows_beside_others_of_weight_0():
    x = np.array([[1.0, 2.0]] * 6 + [[9.0, 9.0]])
    found = KMeans(1, random_state=0).fit(x, sample_weight=[1.0] * 6 + [0.0])
    np.testing.assert_array_equal(found.cluster_centers_, [[1.0, 2.0]])
    assert found.inertia_ == 0


def test_a_relocated_row_leaves_the_cluster_that_it_was_in():
    """Else that cluster's mean would be pulled by a row that it no longer has, and take an update more."""
    x = np.array([[0.0, 0], [0.5, 0], [0.5, 1], [1, 1]])
    found = KMeans(2, init=np.array([[0.5, 0.5], [3, 3]])).fit(x)
    assert (found.n_iter_, found.inertia_) == (3, 0.25)


def test_mini_batches_relocate_to_rows_by_their_weight():
    x = np.concatenate([np.zeros((50, 1)), np.full((50, 1), 5.0), np.full((900, 1), 1000.0)])
    weights = np.r_[np.ones(100), np.full(900, 1e-9)]
    start = np.array([[0.0], [1e6]])
    found = MiniBatchKMeans(2, init=start, random_state=0).partial_fit(x, sample_weight=weights)
    assert found.cluster_centers_.max() < 6
