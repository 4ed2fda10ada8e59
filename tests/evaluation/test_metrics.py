"""Scores against true labels: scikit-learn, the published values, and all matchings tried."""

import itertools

import numpy as np
import pytest
import sklearn.metrics
import torch
from tests.golden import golden

from shoal.evaluation import clustering_scores, matched_confusion, purity


def random_pair(seed, n, n_classes, n_clusters, noise=0.4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    pred = np.where(rng.random(n) < noise, rng.integers(n_clusters, size=n), labels % n_clusters)
    return labels, pred


@pytest.mark.parametrize("name", ["metrics_a", "metrics_b"])
def test_published_values(name):
    g = golden(name)
    scores = clustering_scores(g["labels"], g["pred"])
    assert scores == pytest.approx({key: float(g[key]) for key in ("acc", "nmi", "ari", "fmi")}, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n_classes", "n_clusters"), [(5, 5), (3, 6), (7, 2), (1, 4), (4, 1), (1, 1), (50, 80)])
def test_scikit_learn_agrees(n_classes, n_clusters, seed):
    labels, pred = random_pair(seed, 300, n_classes, n_clusters)
    scores = clustering_scores(labels, torch.from_numpy(pred))
    assert scores["nmi"] == pytest.approx(sklearn.metrics.normalized_mutual_info_score(labels, pred), abs=1e-9)
    assert scores["ari"] == pytest.approx(sklearn.metrics.adjusted_rand_score(labels, pred), abs=1e-9)
    assert scores["fmi"] == pytest.approx(sklearn.metrics.fowlkes_mallows_score(labels, pred), abs=1e-9)


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
    table = [[((pred == k) & (labels == c)).sum() for k in range(n_clusters)] for c in range(n_classes)]
    np.testing.assert_array_equal(counts, table)
    assert len(matches) == min(n_classes, n_clusters)
    matched = sum(counts[pair] for pair in matches)
    assert matched / (labels >= 0).sum() == pytest.approx(clustering_scores(labels, pred)["acc"])


def test_matched_confusion_without_a_known_row():
    counts, matches = matched_confusion(np.array([-1, -1]), np.array([0, 1]), 2)
    assert counts.shape == (0, 2)
    assert matches == []
