"""The sparse matching beside a dense one."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from shoal.clustering import Contingency
from shoal.evaluation import metrics as matching
from shoal.evaluation.metrics import matched_pairs, matched_share

METHODS = {"paths": matching._by_paths, "levels": matching._by_levels}


def table_of(counts):
    """A contingency table without the rows that it counts."""
    clusters, classes = np.nonzero(counts)
    ids, numbers = zip(*(np.unique(side, return_inverse=True) for side in (clusters, classes)), strict=True)
    return Contingency(*numbers, counts[clusters, classes], *ids, 0)


def assert_best(counts):
    table = table_of(counts)
    matched = matched_pairs(table)
    for ids in (table.clusters[matched], table.classes[matched]):
        assert len(np.unique(ids)) == len(ids)
    assert table.counts[matched].sum() == counts[linear_sum_assignment(counts, maximize=True)].sum()


def random_counts(seed, large):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, size=2)
    return rng.integers(0, large, size=shape) * (rng.random(shape) < rng.choice([0.15, 0.4, 1.0]))


@pytest.mark.parametrize("large", [2, 3, 8, 10**9])
@pytest.mark.parametrize("certain", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_sparse_matching_is_as_good_as_a_dense_one(method, certain, large, monkeypatch):
    def only(rows, columns, counts):
        shape = int(rows.max()) + 1, int(columns.max()) + 1
        return METHODS[method](rows, columns, counts, shape)[rows] == columns

    monkeypatch.setattr(matching, "_matched", only)
    if not certain:
        monkeypatch.setattr(matching, "_certain", lambda *_: np.zeros(0, dtype=np.int64))
    for seed in range(60):
        assert_best(random_counts(seed, large))


@pytest.mark.parametrize("large", [2, 5, 10**6])
def test_larger_tables(large):
    rng = np.random.default_rng(large)
    for density in (0.005, 0.02, 0.5):
        counts = rng.integers(1, large, size=(300, 280)) * (rng.random((300, 280)) < density)
        assert_best(counts)
        assert_best(counts.T)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4)), min_size=1))
def test_any_table(entries):
    counts = np.zeros((7, 7), dtype=np.int64)
    for cluster, label, count in entries:
        counts[cluster, label] = count
    assert_best(counts)


def test_no_pair():
    nothing = np.zeros(0, dtype=np.int64)
    assert matched_pairs(Contingency(*[nothing] * 5, 3)).tolist() == []


@pytest.mark.parametrize("rows_each", [1, 5])
def test_hundreds_of_thousands_of_clusters_and_classes(rows_each):
    """A dense table would take 320 GB; all rows share one connected part where each cluster has five."""
    n, k = rows_each * 200_000, 200_000
    rng = np.random.default_rng(0)
    start = time.monotonic()
    share = matched_share(Contingency.of(rng.integers(k, size=n), rng.integers(k, size=n)))
    assert time.monotonic() - start < 60, "seconds on an idle machine"
    # All counts are 1 but for a few 2s: the share is that of a matching of a sparse random graph.
    assert share == pytest.approx({1: 0.544, 5: 0.1985}[rows_each], abs=0.002)


def test_good_clusters_of_many_classes():
    k = 200_000
    labels = np.repeat(np.arange(k), 4)
    pred = np.where(np.arange(4 * k) % 4 == 0, (labels + 1) % k, labels)[::-1] + 7
    assert matched_share(Contingency.of(pred, labels[::-1])) == 0.75
