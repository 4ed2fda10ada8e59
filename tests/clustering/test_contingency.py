"""Counts of pairs beside scikit-learn's, and their scores beside exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.clustering import Contingency, adjusted_rand, contingency
from shoal.errors import UserError


def dense(table):
    counts = np.zeros((len(table.cluster_ids), len(table.class_ids)), dtype=np.int64)
    counts[table.clusters, table.classes] = table.counts
    return counts


def assert_counted(pred, labels):
    table = Contingency.of(pred, labels)
    pred, labels = np.asarray(pred).astype(np.int64), np.asarray(labels).astype(np.int64)
    known = (pred >= 0) & (labels >= 0)
    assert table.ignored == (~known).sum()
    np.testing.assert_array_equal(table.cluster_ids, np.unique(pred[known]))
    np.testing.assert_array_equal(table.class_ids, np.unique(labels[known]))
    if known.any():
        expected = sklearn.metrics.cluster.contingency_matrix(pred[known], labels[known])
        np.testing.assert_array_equal(dense(table), expected)
        np.testing.assert_array_equal(table.sizes()[0], expected.sum(1))
        np.testing.assert_array_equal(table.sizes()[1], expected.sum(0))
    order = np.lexsort((table.classes, table.clusters))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    assert table.counts.dtype == np.int64
    assert (table.counts > 0).all()


def some(n=500, k=6, seed=0, dtype=np.int64):
    return np.random.default_rng(seed).integers(-1, k, size=n).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_any_width(dtype):
    pred, labels = some(dtype=dtype), some(seed=1, k=100)
    assert_counted(pred, labels)
    assert_counted(labels, torch.from_numpy(pred))


def test_the_largest_number_of_a_width_is_no_overflow():
    assert_counted(np.array([127, 126, -128, 127], dtype=np.int8), np.array([0, 1, 1, 0], dtype=np.uint8))


def test_a_memory_map(tmp_path):
    np.save(tmp_path / "pred.npy", some())
    assert_counted(np.load(tmp_path / "pred.npy", mmap_mode="r"), some(seed=1))


@pytest.mark.parametrize("scale", [1, 10**6, 10**12])
@pytest.mark.parametrize("chunk", [7, 100, 2**22])
def test_large_numbers_with_gaps_are_counted_in_chunks(scale, chunk, monkeypatch):
    """By a table, and by sorting."""
    monkeypatch.setattr(contingency, "TABLE_ROWS", chunk)
    monkeypatch.setattr(contingency, "SORTED_ROWS", chunk)
    if scale == 10**6:
        monkeypatch.setattr(contingency, "TABLE", 10)
        scale = 3
    names = scale * np.array([5, 17, 0, 3, 9, 1, -1])
    assert_counted(names[some()], names[some(seed=1)])
    assert_counted(names[some()], some(seed=1))


def test_each_row_by_itself():
    assert_counted(np.arange(300), np.arange(300)[::-1])
    table = Contingency.of(np.arange(10**6), np.arange(10**6) // 2)
    assert len(table.counts) == 10**6
    assert table.sizes()[1].tolist() == [2] * 500_000


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_known(n):
    table = Contingency.of(np.full(n, -1), np.arange(n))
    assert (len(table.counts), len(table.cluster_ids), len(table.class_ids), table.ignored) == (0, 0, 0, n)
    assert_counted(np.full(n, -1), np.arange(n) * 10**9)
    assert_counted(np.full(n, -5), np.arange(n))


def test_one_of_each_for_every_row():
    with pytest.raises(UserError, match="3 clusters and 2 classes"):
        Contingency.of(np.arange(3), np.arange(2))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(-3, 5), st.integers(-3, 5))), st.randoms(use_true_random=False))
def test_adjusted_rand_is_scikit_learns_and_sees_no_names_or_order(rows, random):
    pred, labels = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    known = (pred >= 0) & (labels >= 0)
    value = adjusted_rand(pred, labels)
    assert value == pytest.approx(sklearn.metrics.adjusted_rand_score(labels[known], pred[known]), abs=1e-12)
    assert adjusted_rand(labels, pred) == value
    order = random.sample(range(len(rows)), len(rows))
    names = np.array([*random.sample(range(10**12), 6), -1, -1, -1])
    assert adjusted_rand(names[pred][order], labels[order]) == value


def made_up(seed):
    """Counts whose squares int64 does not hold, and whose sums of squares float64 rounds."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, rng.choice([10, 10**5, 10**10]), size=(6, 5))
    counts[0, 0] += 10**11  # nearly everything in one cluster and one class: the differences are tiny
    return counts


def exact(counts):
    """ARI, and FMI squared, in fractions."""
    counts = [[int(m) for m in row] for row in counts]
    n = sum(map(sum, counts))
    both = sum(Fraction(m * (m - 1), 2) for row in counts for m in row)
    sides = [map(sum, counts), map(sum, zip(*counts, strict=True))]
    cluster, label = (sum(Fraction(m * (m - 1), 2) for m in sizes) for sizes in sides)
    chance = cluster * label / Fraction(n * (n - 1), 2)
    return (both - chance) / ((cluster + label) / 2 - chance), both * both / (cluster * label)


@pytest.mark.parametrize("seed", range(12))
def test_tables_of_a_hundred_billion_rows_lose_no_digit(seed):
    counts = made_up(seed)
    clusters, classes = np.nonzero(counts)
    table = Contingency(clusters, classes, counts[clusters, classes], np.arange(6), np.arange(5), 0)
    ari, fmi_squared = exact(counts)
    assert table.adjusted_rand() == pytest.approx(float(ari), rel=1e-15, abs=0)
    assert table.fowlkes_mallows() ** 2 == pytest.approx(float(fmi_squared), rel=1e-14)
