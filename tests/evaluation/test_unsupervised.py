"""Signals without labels."""

import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F

from shoal.errors import UserError
from shoal.evaluation import clustering_signals, collapse_warning, unsettled_warning
from shoal.types import Clustering


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clustered(n=200, d=8, k=4, spread=0.3):
    g = generator(5)
    centers = torch.randn(k, d, generator=g)
    labels = torch.randint(k, (n,), generator=g)
    features = centers[labels] + spread * torch.randn(n, d, generator=g)
    return features, Clustering(labels, centers, torch.zeros(n))


def relabelled(clustering, labels):
    return Clustering(labels, clustering.centers, torch.zeros(len(labels)))


def signals(features, clustering, previous=None):
    return clustering_signals(features, clustering, 0, previous)


def test_silhouette_matches_a_naive_loop():
    features, clustering = clustered(60, spread=1.0)
    directions, labels = F.normalize(features, dim=1), clustering.labels
    distances = 1 - directions @ directions.T
    values = []
    for i in range(60):
        own = labels == labels[i]
        a = distances[i, own].sum() / (own.sum() - 1)
        b = min(distances[i, labels == c].mean() for c in range(4) if c != labels[i])
        values.append((b - a) / max(a, b))
    assert signals(features, clustering)["silhouette"] == pytest.approx(float(sum(values) / 60), abs=1e-5)


def test_silhouette_of_a_sample_is_near_that_of_all():
    features, clustering = clustered(4000, spread=1.0)
    whole = sklearn.metrics.silhouette_score(features, clustering.labels, metric="cosine")
    sampled = signals(features, clustering)["silhouette"]
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.02)


def test_rows_of_no_cluster_count_in_nothing():
    features, clustering = clustered()
    more = torch.cat([features, torch.randn(50, 8, generator=generator(1))])
    labels = torch.cat([clustering.labels, torch.full((50,), -1)])
    with_more = signals(more, relabelled(clustering, labels), labels.clone())
    without = signals(features, clustering, clustering.labels)
    for name in ("silhouette", "smallest", "largest", "changed"):
        assert with_more[name] == pytest.approx(without[name], abs=1e-6)


def test_sizes_count_empty_clusters():
    features, clustering = clustered(4)
    found = signals(features, relabelled(clustering, torch.tensor([0, 0, 0, 2])))
    assert found["smallest"] == 0
    assert found["largest"] == 0.75


@pytest.mark.parametrize("labels", [torch.zeros(200).long(), torch.full((200,), -1)])
def test_one_cluster_or_none_gives_numbers(labels):
    features, clustering = clustered()
    found = signals(features, relabelled(clustering, labels), labels)
    assert torch.isfinite(torch.tensor(list(found.values()))).all()
    assert found["silhouette"] == 0


def test_changed_does_not_see_the_names_of_clusters():
    features, clustering = clustered()
    renamed = torch.tensor([2, 3, 1, 0])[clustering.labels]
    assert signals(features, clustering, renamed)["changed"] == 0
    renamed[:10] = (renamed[:10] + 1) % 4
    assert signals(features, clustering, renamed)["changed"] == pytest.approx(10 / 200)
    assert "changed" not in signals(features, clustering)


def test_feature_std_is_one_on_the_sphere_and_zero_at_a_point():
    _, clustering = clustered(5000)
    spread = torch.randn(5000, 64, generator=generator())
    assert signals(spread, clustering)["feature_std"] == pytest.approx(1, abs=0.02)
    assert signals(torch.ones(5000, 64), clustering)["feature_std"] == pytest.approx(0, abs=1e-5)


def test_alarm():
    features, clustering = clustered()
    healthy = signals(features, clustering)
    assert collapse_warning(healthy) is None
    assert collapse_warning(signals(torch.ones(200, 8) + 5e-2 * features, clustering)) is None
    alike = signals(torch.ones(200, 8) + 1e-2 * features, clustering)
    assert "nearly the same" in collapse_warning(alike)
    assert "lower learning rate" in collapse_warning(alike)
    lopsided = clustering.labels.where(torch.arange(200) < 5, 0)
    assert "one cluster holds 9" in collapse_warning(signals(features, relabelled(clustering, lopsided)))
    alone = Clustering(torch.zeros(200).long(), clustering.centers[:1], clustering.distances)
    assert collapse_warning(signals(features, alone)) is None


def test_clusters_that_have_not_settled_are_told():
    assert unsettled_warning({"feature_std": 0.5}) is None
    assert unsettled_warning({"changed": 0.4}) is None
    assert "72% of the images are in another one" in unsettled_warning({"changed": 0.72})


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence(value):
    features, clustering = clustered()
    features[3, 2] = value
    with pytest.raises(UserError, match="the features contain NaN or infinity: training has diverged"):
        signals(features, clustering)
