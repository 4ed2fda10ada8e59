"""Scores against true labels: scikit-learn, the published values, and all matchings tried."""

import itertools
import time
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy
from scipy.stats import hypergeom
from sklearn.metrics.cluster import expected_mutual_information
from tests.golden import golden

from shoal.clustering.contingency import Contingency
from shoal.errors import UserError
from shoal.evaluation import clustering_scores, matched_confusion, purity
from shoal.evaluation.metrics import class_scores, expected_information, matched_class, matched_pairs


def random_pair(seed, n, n_classes, n_clusters, noise=0.4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    pred = np.where(rng.random(n) < noise, rng.integers(n_clusters, size=n), labels % n_clusters)
    return labels, pred


PEERS = {
    "nmi": sklearn.metrics.normalized_mutual_info_score,
    "ari": sklearn.metrics.adjusted_rand_score,
    "fmi": sklearn.metrics.fowlkes_mallows_score,
    "ami": sklearn.metrics.adjusted_mutual_info_score,
    "homogeneity": sklearn.metrics.homogeneity_score,
    "completeness": sklearn.metrics.completeness_score,
    "v_measure": sklearn.metrics.v_measure_score,
}
SYMMETRIC = ("acc", "nmi", "ari", "fmi", "ami", "v_measure")
few = settings(max_examples=40, deadline=None, derandomize=True)


def assert_scikit_learn_agrees(labels, pred):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn takes as many classes as rows for a mistake
        expected = {name: score(labels, pred) for name, score in PEERS.items()}
        table = sklearn.metrics.cluster.contingency_matrix(labels, pred)
    expected["acc"] = table[linear_sum_assignment(table, maximize=True)].sum() / len(labels)
    expected["purity"] = table.max(axis=0).sum() / len(labels)
    assert clustering_scores(labels, pred) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["metrics_a", "metrics_b"])
def test_published_values(name):
    g = golden(name)
    scores = clustering_scores(g["labels"], g["pred"])
    assert list(scores)[:4] == ["acc", "nmi", "ari", "fmi"]
    assert list(scores.values())[:4] == pytest.approx([float(g[key]) for key in ("acc", "nmi", "ari", "fmi")], abs=1e-6)


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(5, 5), (3, 6), (7, 2), (1, 4), (4, 1), (1, 1), (50, 80)])
def test_scikit_learn_agrees(n_classes, n_clusters):
    labels, pred = random_pair(0, 300, n_classes, n_clusters)
    assert_scikit_learn_agrees(labels, torch.from_numpy(pred))


def test_scikit_learn_agrees_on_clusters_of_very_different_sizes():
    rng = np.random.default_rng(0)
    labels = rng.choice(40, size=20_000, p=rng.dirichlet(np.full(40, 0.1)))
    pred = np.where(rng.random(20_000) < 0.3, labels, rng.choice(300, size=20_000, p=rng.dirichlet(np.full(300, 0.05))))
    assert_scikit_learn_agrees(labels, pred)


@pytest.mark.parametrize("ids", [[0], [0, 1, 2, 3], [5, 5, 5], [0, 0, 1, 1]])
@pytest.mark.parametrize("others", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 0, 1], [3, 3, 4, 4]])
def test_scikit_learn_agrees_at_the_limits(ids, others):
    assert_scikit_learn_agrees(np.array(ids), np.array(others[: len(ids)]))


@few
@given(st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), max_size=40))
def test_scikit_learn_agrees_on_any_labels(rows):
    labels, pred = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    known = (labels >= 0) & (pred >= 0)
    if known.any():
        assert_scikit_learn_agrees(labels[known], pred[known])
        assert clustering_scores(labels, pred) == pytest.approx(clustering_scores(labels[known], pred[known]))
    else:
        assert clustering_scores(labels, pred) == {}


@few
@given(
    st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 5)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_order_and_numbers_do_not_matter_and_most_scores_are_symmetric(rows, random):
    labels, pred = np.array(rows).T
    order = random.sample(range(len(rows)), len(rows))
    names = [np.array([*random.sample(range(10**12), 6), -1]) for _ in range(2)]  # -1 stays
    scores = clustering_scores(labels, pred)
    assert clustering_scores(names[0][labels][order], names[1][pred][order]) == pytest.approx(scores)
    turned = clustering_scores(pred, labels)
    for name in SYMMETRIC if scores else ():
        assert turned[name] == pytest.approx(scores[name])
    if scores:
        assert turned["homogeneity"] == pytest.approx(scores["completeness"])


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(4, 4), (3, 5), (5, 3)])
def test_accuracy_is_the_best_of_all_matchings(n_classes, n_clusters):
    labels, pred = random_pair(0, 60, n_classes, n_clusters, noise=0.7)
    size = max(n_classes, n_clusters)
    best = max((np.array(m)[pred] == labels).mean() for m in itertools.permutations(range(size)))
    assert clustering_scores(labels, pred)["acc"] == pytest.approx(best)


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(4, 4), (3, 9), (9, 3), (1, 5), (5, 1)])
def test_purity_is_the_best_of_all_many_to_one_matchings(n_classes, n_clusters):
    labels, pred = random_pair(0, 90, n_classes, n_clusters, noise=0.7)
    votes = [np.bincount(labels[pred == k], minlength=n_classes).argmax() for k in range(n_clusters)]
    assert purity(labels, pred) == pytest.approx((np.array(votes)[pred] == labels).mean())
    assert purity(labels, pred) >= clustering_scores(labels, pred)["acc"]


def test_purity_passes_rows_over_and_may_have_none():
    labels, pred = np.array([0, 0, 1, -1, 1]), np.array([7, 7, 7, 7, -1])
    assert purity(labels, pred) == pytest.approx(2 / 3)
    assert purity(torch.tensor([-1]), torch.tensor([0])) == 0


def test_rows_without_label_or_cluster_do_not_count():
    labels, pred = random_pair(0, 200, 4, 4)
    with_gaps = np.append(labels, [-1, 2, -1]), np.append(pred, [0, -1, -1])
    assert clustering_scores(*with_gaps) == clustering_scores(labels, pred)


def test_names_of_clusters_and_classes_do_not_matter():
    labels, pred = random_pair(0, 200, 4, 4)
    renamed = clustering_scores(labels + 10**12, np.array([3, 0, 10**9, 1])[pred])
    assert renamed == pytest.approx(clustering_scores(labels, pred), abs=1e-12)


@pytest.mark.parametrize("ids", [[0], [0, 1, 2, 3], [5, 5, 5]])
def test_agreement_without_pairs_or_entropy(ids):
    scores = clustering_scores(np.array(ids), np.array(ids))
    assert scores["acc"] == scores["nmi"] == scores["ari"] == pytest.approx(1.0)
    assert scores["fmi"] == pytest.approx(sklearn.metrics.fowlkes_mallows_score(ids, ids))


def test_nothing_to_score():
    assert clustering_scores(np.array([-1, -1]), np.array([0, 1])) == {}
    assert clustering_scores(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)) == {}


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(4, 4), (3, 6), (6, 3)])
def test_matched_confusion(n_classes, n_clusters):
    labels, pred = random_pair(1, 400, n_classes, n_clusters)
    labels[:20] = -1
    counts, matches = matched_confusion(labels, pred, n_clusters)
    table = np.zeros((n_classes, n_clusters), dtype=int)
    table[counts.class_ids[counts.classes], counts.cluster_ids[counts.clusters]] = counts.counts
    expected = [[((pred == k) & (labels == c)).sum() for k in range(n_clusters)] for c in range(n_classes)]
    np.testing.assert_array_equal(table, expected)
    assert len(matches) == min(n_classes, n_clusters)
    assert matches == sorted(matches)
    matched = sum(table[pair] for pair in matches)
    assert matched / (labels >= 0).sum() == pytest.approx(clustering_scores(labels, pred)["acc"])


def test_matched_confusion_without_a_known_row():
    counts, matches = matched_confusion(np.array([-1, -1]), np.array([0, 1]), 2)
    assert len(counts.counts) == 0
    assert matches == []


def test_what_shares_no_row_is_matched_in_order():
    """Class 1 shares rows with cluster 4 alone, which class 0 needs; of clusters 0 to 5 the first free one is left."""
    labels, pred = np.array([0, 0, 1, 2, 9]), np.array([4, 4, 4, 0, 2])
    assert matched_confusion(labels, pred, 6)[1] == [(0, 4), (1, 1), (2, 0), (9, 2)]
    assert matched_confusion(labels[:3], pred[:3], 5)[1] == [(0, 4), (1, 0)]


@pytest.mark.parametrize("labels", [np.array([0.5, np.nan]), np.array(["a", None]), np.zeros((2, 2), int)])
def test_what_are_no_labels_is_refused(labels):
    with pytest.raises(UserError, match=r"^labels "):
        clustering_scores(labels, np.array([0, 1]))


@pytest.mark.parametrize("dense", [2**26, 0])
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(30, 30), (20, 45), (45, 20)])
def test_a_sparse_matching_is_as_good_as_a_dense_one(shape, density, dense, monkeypatch):
    monkeypatch.setattr("shoal.evaluation.metrics.DENSE", dense)
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, size=shape) * (rng.random(shape) < density)
    table = Contingency.of(*(np.repeat(ids, counts.ravel()) for ids in np.indices(shape).reshape(2, -1)))
    matched = matched_pairs(table)
    for ids in (table.clusters[matched], table.classes[matched]):
        assert len(np.unique(ids)) == len(ids)
    assert table.counts[matched].sum() == counts[linear_sum_assignment(counts, maximize=True)].sum()


def test_more_classes_and_clusters_than_a_dense_table_holds():
    labels = np.arange(9000) * 10**9
    assert clustering_scores(labels, labels[::-1])["acc"] == 1


def test_recall_and_precision_by_hand():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, -1, 2])
    pred = torch.tensor([3, 3, 3, 1, 1, 1, 0, 3, 3, -1])
    rows = class_scores(labels, pred, 4, ("ant", "bee"))
    assert [(row.name, row.images, row.cluster) for row in rows] == [("ant", 4, 3), ("bee", 2, 1), ("2", 2, 0)]
    assert [row.recall for row in rows] == [3 / 4, 1, 1 / 2]
    assert [row.precision for row in rows] == [3 / 4, 2 / 3, 1]
    assert matched_class(labels, pred, 4).tolist() == [2, 1, -1, 0]


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(6, 6), (3, 8), (8, 3)])
def test_recalls_add_up_to_the_accuracy(n_classes, n_clusters):
    rng = np.random.default_rng(0)
    labels, pred = rng.integers(n_classes, size=300), rng.integers(n_clusters, size=300)
    rows = class_scores(labels, pred, n_clusters, ())
    accuracy = clustering_scores(labels, pred)["acc"]
    assert sum(row.recall * row.images for row in rows) / 300 == pytest.approx(accuracy)
    matched = matched_class(labels, pred, n_clusters)
    assert (matched[pred] == labels).mean() == pytest.approx(accuracy)
    for row in rows:
        assert (row.cluster is None) == (row.precision is None)
        assert row.cluster is None or matched[row.cluster] == int(row.name)
    assert sum(row.cluster is not None for row in rows) == min(n_classes, n_clusters)


def test_classes_without_an_image_have_no_row():
    rows = class_scores(np.array([0, 2]), np.array([0, 1]), 2, ("a", "b", "c"))
    assert [row.name for row in rows] == ["a", "c"]
    assert class_scores(np.array([-1]), np.array([0]), 2, ("a",)) == []


def test_an_empty_cluster_has_no_precision():
    (row,) = class_scores(np.array([0, 0]), np.array([-1, 1]), 2, ("a",))
    assert (row.cluster, row.recall, row.precision) == (1, 1.0, 1.0)
    rows = class_scores(np.array([0, 1]), np.array([0, 0]), 2, ("a", "b"))
    assert [(row.recall, row.precision) for row in rows] in ([(1, 0.5), (0, None)], [(0, None), (1, 0.5)])


@pytest.mark.parametrize("clusters", [[3, 2], [2, 2, 1], [1, 1, 1, 1, 1], [4, 1]])
def test_expected_information_is_the_mean_over_all_arrangements(clusters):
    labels = np.array([0, 0, 0, 1, 1])
    pred = np.repeat(np.arange(len(clusters)), clusters)
    every = [sklearn.metrics.mutual_info_score(labels, pred[list(p)]) for p in itertools.permutations(range(5))]
    assert expected_information(np.array(clusters), np.array([3, 2])) == pytest.approx(np.mean(every), abs=1e-12)


@pytest.mark.parametrize(("n", "concentration"), [(2, 1.0), (100, 0.05), (5000, 100.0), (40_000, 0.05)])
def test_expected_information_is_scikit_learns(n, concentration):
    rng = np.random.default_rng(n)
    pred, labels = (rng.choice(k, size=n, p=rng.dirichlet(np.full(k, concentration))) for k in (12, 30))
    table = scipy.sparse.csr_array(sklearn.metrics.cluster.contingency_matrix(pred, labels))
    sizes = (np.unique(ids, return_counts=True)[1] for ids in (pred, labels))
    assert expected_information(*sizes) == pytest.approx(expected_mutual_information(table, n), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(5 * 10**7, 10**6), (300, 400)])
def test_expected_information_of_a_hundred_million_rows(a, b):
    """Two clusters, two classes, from scipy's probabilities; terms far from the mean vanish."""
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


def test_the_time_of_expected_information_does_not_grow_with_the_rows():
    rng = np.random.default_rng(0)
    start = time.monotonic()
    sizes = (rng.multinomial(10**10, np.full(20, 1 / 20)) for _ in range(2))
    # The mean of a χ² of 19 × 19 degrees of freedom, over 2n.
    assert expected_information(*sizes) == pytest.approx(19 * 19 / 2e10, rel=1e-2)
    assert time.monotonic() - start < 20
