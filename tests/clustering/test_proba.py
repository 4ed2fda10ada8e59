"""Probabilities of k-means' clusters, against the formula written out."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from tests.clustering.refusing import by_every_metric

from shoal.clustering import KMeans, MiniBatchKMeans

by_every_kmeans = pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])


def data(n=120, d=12):
    return np.random.default_rng(0).normal(size=(n, d)) + np.eye(d)[np.arange(n) % 3] * 4


@by_every_metric
@by_every_kmeans
@pytest.mark.parametrize("k", [1, 4, 20])
def test_it_is_the_posterior_of_round_gaussians(kind, metric, k):
    x = data()
    model = kind(k, metric=metric, random_state=0).fit(x)
    squared = (
        2 * cosine_distances(x, model.cluster_centers_)
        if metric == "cosine"
        else euclidean_distances(x, model.cluster_centers_) ** 2
    )
    variance = squared.min(1).sum() / (len(x) * max(1, min(12, k - 1)))
    assert model.variance_ == pytest.approx(variance, rel=1e-6)
    expected = np.exp(-squared / (2 * variance))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(x), expected, atol=1e-7)
    np.testing.assert_array_equal(model.predict_proba(x).argmax(1), model.predict(x))


@by_every_kmeans
def test_weights_count_as_repeated_rows(kind):
    x, centers = data(), data()[:3]
    weights = np.arange(120) % 3 + 1.0
    settings = {"init": centers, "n_init": 1, "max_iter": 1} if kind is KMeans else {"init": centers, "max_iter": 1}
    weighted = kind(3, **settings).fit(x, sample_weight=weights)
    squared = euclidean_distances(x, weighted.cluster_centers_).min(1) ** 2
    assert weighted.variance_ == pytest.approx((squared * weights).sum() / weights.sum() / 2, rel=1e-6)


@by_every_metric
def test_after_partial_fit_the_last_batch_says_how_far_rows_lie(metric):
    x = torch.from_numpy(data())
    model = MiniBatchKMeans(3, metric=metric, random_state=0).partial_fit(x)
    before = torch.as_tensor(model.cluster_centers_)
    model.partial_fit(x[:60])
    squared = (
        2 * cosine_distances(x[:60], before) if metric == "cosine" else euclidean_distances(x[:60], before) ** 2
    ).min(1)
    assert model.variance_ == pytest.approx(squared.sum() / 60 / 2, rel=1e-3)
    torch.testing.assert_close(model.predict_proba(x).argmax(1), model.predict(x))


def test_no_spread_leaves_no_doubt():
    x = torch.eye(3).repeat(4, 1)
    model = KMeans(3, random_state=0).fit(x)
    assert model.variance_ == 0
    torch.testing.assert_close(model.predict_proba(x), torch.nn.functional.one_hot(model.labels_, 3).float())
    between = model.predict_proba(torch.full((1, 3), 1 / 3))
    assert between.isfinite().all()
    assert between.sum() == pytest.approx(1)


@by_every_metric
def test_ties_fall_where_predict_puts_them(metric):
    centers = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    centers[20:] = centers[:20].flip(0) * (1 + 1e-7)
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    model = KMeans(40, init=centers, metric=metric, max_iter=1).fit(x)
    model.cluster_centers_ = centers
    torch.testing.assert_close(model.predict_proba(x).argmax(1), model.predict(x))


@pytest.mark.parametrize("unit", [1e-20, 1e20])
def test_the_unit_of_the_features_does_not_matter(unit):
    x = np.random.default_rng(0).normal(size=(200, 4)) + 3 * np.arange(200)[:, None] % 3
    expected = KMeans(3, random_state=0).fit(x).predict_proba(x)
    np.testing.assert_allclose(KMeans(3, random_state=0).fit(unit * x).predict_proba(unit * x), expected, atol=1e-6)


def test_clusters_without_spread_have_all_of_the_probability():
    x = np.eye(3)[np.arange(30) % 3]
    model = KMeans(3, random_state=0).fit(x)
    np.testing.assert_array_equal(model.predict_proba(x).max(1), 1)
    assert np.isfinite(np.float32(model.as_module().scale))  # as in an exported network
