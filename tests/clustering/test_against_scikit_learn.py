"""Inertia of k-means beside scikit-learn's, on data of many shapes, from the same and from own starts."""

import numpy as np
import pytest
import sklearn.cluster
import torch

from shoal.clustering import KMeans
from shoal.clustering.kmeans import init as sample

SEEDS = 5
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def groups(n, d, k, spread, rng):
    return rng.normal(size=(k, d))[rng.integers(k, size=n)] + spread * rng.normal(size=(n, d))


def flat(rng):
    """Two clusters in the plane."""
    return groups(400, 2, 2, 0.3, rng), 2


def many(rng):
    """A thousand clusters."""
    return groups(4000, 8, 1000, 0.1, rng), 1000


def wide(rng):
    """More dimensions than rows."""
    return groups(300, 2048, 6, 3.0, rng), 6


def duplicates(rng):
    """Each row many times over, some of them more often."""
    return groups(200, 5, 8, 0.5, rng)[rng.integers(200, size=3000) ** 2 % 200], 8


def outlier(rng):
    """One far row, and columns that hold one number."""
    x = np.concatenate([groups(600, 4, 5, 1.0, rng), np.full((600, 2), 7.0)], 1)
    x[rng.integers(600), :4] = 1000.0
    return x, 5


def as_many(rng):
    """As many clusters as rows."""
    return rng.normal(size=(50, 3)), 50


SHAPES = [flat, many, wide, duplicates, outlier, as_many]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_start_ends_at_the_same_inertia(shape):
    for seed in range(1 if shape is many else SEEDS):
        rng = np.random.default_rng(seed)
        x, k = shape(rng)
        x = x.astype(np.float32)
        start, _ = sklearn.cluster.kmeans_plusplus(
            x, k, random_state=seed
        )  # no empty clusters, which have no one remedy
        peer = sklearn.cluster.KMeans(k, init=start, n_init=1).fit(x)
        ours = KMeans(k, init=start).fit(x)
        assert ours.inertia_ == pytest.approx(peer.inertia_, rel=1e-3, abs=1e-6 * float(np.square(x).sum())), seed


@pytest.mark.parametrize(
    ("shape", "size"),
    [(s, "all") for s in SHAPES]
    + [pytest.param(s, "sample", marks=pytest.mark.slow) for s in SHAPES if s not in (many, as_many)],
)
def test_own_starts_end_at_no_more_inertia(shape, size, monkeypatch):
    """With few restarts both sides also need luck, so it is the mean over seeds that must not be higher."""
    if size == "sample":
        monkeypatch.setattr(sample, "LEAST_ROWS", 100)
        monkeypatch.setattr(sample, "ROWS_PER_CLUSTER", 1)
    ours, theirs = [], []
    x, k = shape(np.random.default_rng(0))
    # A thousand centres take seconds each time, and luck evens out among them.
    n_init, seeds = (1, 2) if k == 1000 else (3, SEEDS)
    for seed in range(seeds):
        theirs.append(sklearn.cluster.KMeans(k, n_init=n_init, random_state=seed).fit(x).inertia_)
        ours.append(KMeans(k, n_init=n_init, random_state=seed).fit(x).inertia_)
    assert np.mean(ours) <= 1.001 * np.mean(theirs) + 1e-6 * np.square(x).sum()


@pytest.mark.parametrize("init", ["k-means||", "random", "k-means++"])
def test_every_start_finds_the_groups_of_a_large_data_set(init):
    rng = np.random.default_rng(0)
    x = groups(40_000, 6, 20, 0.05, rng).astype(np.float32)
    # Swaps mend what random rows miss.
    peer = sklearn.cluster.KMeans(20, n_init=10, random_state=0).fit(x)
    assert KMeans(20, init=init, n_init=2, random_state=0).fit(x).inertia_ <= 1.001 * peer.inertia_


def test_a_far_row_and_a_small_far_group_among_many_rows_are_not_missed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60_000, 4)).astype(np.float32)
    x[17], x[100:104] = 500.0, -300.0
    found = KMeans(3, n_init=1, random_state=0).fit(x)
    assert sorted(np.bincount(found.labels_).tolist()) == [1, 4, 59_995]


def test_weights_on_a_large_data_set_count_as_repeated_rows():
    rng = np.random.default_rng(0)
    x = groups(30_000, 3, 4, 0.2, rng).astype(np.float32)
    weights = rng.integers(0, 4, size=len(x))
    weighted = KMeans(4, n_init=2, random_state=0).fit(x, sample_weight=weights)
    repeated = KMeans(4, n_init=2, random_state=0).fit(x.repeat(weights, axis=0))
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-3)
    order = torch.cdist(torch.from_numpy(weighted.cluster_centers_), torch.from_numpy(repeated.cluster_centers_))
    assert order.amin(1).max() < 0.01


def test_small_data_are_clustered_the_same_in_any_order():
    rng = np.random.default_rng(0)
    x = groups(500, 4, 6, 1.0, rng)
    order = rng.permutation(500)
    found, shuffled = (KMeans(6, random_state=0).fit(y) for y in (x, x[order]))
    np.testing.assert_array_equal(found.labels_[order], shuffled.labels_)


@pytest.mark.parametrize("n", [4000, 17_000])
@pytest.mark.parametrize("offset", [1e4, 1e5])
def test_groups_far_from_each_other_in_float32(n, offset):
    """Squares of the lengths are up to 10¹⁰ times those of the distances within a group."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)) + 10 * rng.integers(0, 3, (n, 1))
    x[n // 2 :] += offset
    found, exact = KMeans(6, random_state=0).fit(x.astype(np.float32)), KMeans(6, random_state=0).fit(x)
    assert found.inertia_ == pytest.approx(exact.inertia_, rel=1e-3)
    np.testing.assert_array_equal(found.predict(x.astype(np.float32)), found.labels_)


def test_one_row_far_away_does_not_blur_the_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)) + 10 * rng.integers(0, 3, (4000, 1))
    x[0] += 1e6
    x = x.astype(np.float32)
    found = KMeans(4, random_state=0).fit(x)
    np.testing.assert_array_equal(found.predict(x), found.labels_)
    assert np.square(found.transform(x).min(1)).sum() == pytest.approx(found.inertia_, rel=1e-4)


@pytest.mark.parametrize("n", [1000, 17_000])
def test_constant_data(n):
    found = KMeans(2, random_state=0).fit(np.full((n, 3), 0.1, np.float32))
    assert found.inertia_ == pytest.approx(0, abs=1e-6)
