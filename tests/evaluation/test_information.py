"""Expected mutual information beside scikit-learn's and beside all arrangements tried."""

import itertools
import time

import numpy as np
import pytest
import scipy.sparse
import sklearn.metrics
from scipy.special import xlogy
from scipy.stats import hypergeom
from sklearn.metrics.cluster import expected_mutual_information

from shoal.evaluation.metrics import expected_information


@pytest.mark.parametrize("clusters", [[3, 2], [2, 2, 1], [1, 1, 1, 1, 1], [4, 1]])
def test_the_mean_over_all_arrangements(clusters):
    labels = np.array([0, 0, 0, 1, 1])
    pred = np.repeat(np.arange(len(clusters)), clusters)
    every = [sklearn.metrics.mutual_info_score(labels, pred[list(p)]) for p in itertools.permutations(range(5))]
    assert expected_information(np.array(clusters), np.array([3, 2])) == pytest.approx(np.mean(every), abs=1e-12)


@pytest.mark.parametrize("n", [2, 7, 100, 5000, 40_000])
@pytest.mark.parametrize("concentration", [0.05, 1.0, 100.0])
def test_scikit_learn_agrees(n, concentration):
    rng = np.random.default_rng(n)
    pred, labels = (rng.choice(k, size=n, p=rng.dirichlet(np.full(k, concentration))) for k in (12, 30))
    table = scipy.sparse.csr_array(sklearn.metrics.cluster.contingency_matrix(pred, labels))
    sizes = (np.unique(ids, return_counts=True)[1] for ids in (pred, labels))
    assert expected_information(*sizes) == pytest.approx(expected_mutual_information(table, n), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(10**8 - 3, 10**8 - 5), (5 * 10**7, 10**6), (2, 10**8 - 1), (300, 400)])
def test_a_hundred_million_rows(a, b):
    """Two clusters, two classes, from scipy's probabilities; terms far from the mean have none."""
    n = 10**8
    expected = 0.0
    for rows, images in itertools.product((a, n - a), (b, n - b)):
        mean = rows / n * images
        reach = 40 * np.sqrt(mean * (n - rows) / n * (n - images) / n) + 60
        low, high = max(0, rows + images - n, int(mean - reach)), min(rows, images, int(mean + reach))
        m = np.arange(low, high + 1)
        # m − mean, which is 0 on average, is taken off so that nothing cancels.
        terms = xlogy(m, m / mean) - (m - mean)
        expected += float((hypergeom.pmf(m, n, rows, images) * terms).sum()) / n
    assert expected_information(np.array([a, n - a]), np.array([b, n - b])) == pytest.approx(expected, rel=1e-5)


def test_time_does_not_grow_with_the_rows():
    rng = np.random.default_rng(0)
    start = time.monotonic()
    sizes = (rng.multinomial(10**10, np.full(20, 1 / 20)) for _ in range(2))
    # The mean of a χ² of 19 × 19 degrees of freedom, over 2n.
    assert expected_information(*sizes) == pytest.approx(19 * 19 / 2e10, rel=1e-2)
    assert time.monotonic() - start < 20
