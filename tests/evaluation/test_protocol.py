"""Every figure of an evaluation, on features whose answers are known."""

import dataclasses

import pytest
import torch
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score
from tests.evaluation.examples import blobs, clustered, truth_of

from shoal.clustering import KMeans
from shoal.clustering.kmeans import assign
from shoal.errors import UserError
from shoal.evaluation import clustering_scores, evaluate, knn_leave_one_out, knn_predict, nearest, probe
from shoal.types import Clustering

DISPERSION = {"davies_bouldin": davies_bouldin_score, "calinski_harabasz": calinski_harabasz_score}


def test_without_parts():
    features, labels = blobs()
    clustering = clustered(features)
    found = evaluate(truth_of(labels), features, clustering, 0)
    assert (found.images, found.labelled, found.held_out, found.clusters) == (240, 240, 0, 4)
    expected = clustering_scores(labels, clustering.labels)
    assert found.scores == expected
    directions = torch.nn.functional.normalize(features)
    assert list(found.signals) == ["silhouette", "smallest", "largest", "feature_std", *DISPERSION]
    for name, peer in DISPERSION.items():
        assert found.signals[name] == pytest.approx(peer(directions, clustering.labels), rel=1e-5)
    assert [row.name for row in found.classes] == ["class 0", "class 1", "class 2", "class 3"]
    assert found.calibration.accuracy == pytest.approx(expected["acc"])
    assert sum(b.images for b in found.calibration.bins) == 240
    assert found.train_to_test is found.knn is found.linear is None


def test_neighbours_and_probe_read_other_features_if_there_are_any():
    features, labels = blobs(spread=1.5)
    other, _ = blobs(d=5, spread=2.0)
    truth = truth_of(labels)
    alone = evaluate(truth, features, clustered(features), 0, knn=True, linear=True)
    assert (alone.knn, alone.linear) == (nearest(truth, features), probe(truth, features, 0))
    found = evaluate(truth, features, clustered(features), 0, represented=other, knn=True, linear=True)
    assert (found.knn, found.linear) == (nearest(truth, other), probe(truth, other, 0))
    assert dataclasses.replace(found, knn=alone.knn, linear=alone.linear) == alone


def test_clusters_of_a_head_stay_the_heads():
    """The head's centres are kept from train to test, even where k-means would find others."""
    features, labels = blobs()
    held_out = torch.arange(len(labels)) % 3 == 0
    truth = dataclasses.replace(truth_of(labels), held_out=held_out)
    centers = torch.nn.functional.normalize(
        torch.randn(4, features.shape[1], generator=torch.Generator().manual_seed(5))
    )
    clusters, distances, _ = assign(features, centers, "cosine")
    by_head = Clustering(clusters, centers, distances)
    found = evaluate(truth, features, by_head, 0, by_head=True)
    assert found.train_to_test.scores["acc"] == pytest.approx(
        clustering_scores(labels[held_out], clusters[held_out])["acc"]
    )


def test_without_labels_only_signals_are_left():
    features, labels = blobs()
    found = evaluate(truth_of(torch.full_like(labels, -1)), features, clustered(features), 0)
    assert (found.labelled, found.scores, found.classes, found.calibration) == (0, {}, [], None)
    assert found.signals["silhouette"] > 0.5


def test_one_cluster_has_no_dispersion():
    features, labels = blobs()
    assert not DISPERSION.keys() & evaluate(truth_of(labels), features, clustered(features, 1), 0).signals.keys()


def test_centres_of_the_train_part_are_scored_on_the_test_part():
    features, labels = blobs(spread=1.5)
    truth = truth_of(labels, n_test=60)
    found = evaluate(truth, features, clustered(features), 3).train_to_test
    peer = KMeans(4, metric="cosine", n_init=20, random_state=0).fit(features[:180])
    expected = clustering_scores(labels[180:], peer.predict(features[180:]))
    assert (found.train, found.test) == (180, 60)
    assert {key: found.scores[key] for key in expected} == pytest.approx(expected, abs=0.02)
    assert 0.5 < found.accuracy_matched_on_train <= found.scores["acc"]


def test_a_matching_of_the_train_part_can_be_wrong_on_the_test_part():
    features, labels = blobs(spread=0.1)
    labels = torch.cat((labels[:180], 3 - labels[180:]))
    found = evaluate(truth_of(labels, n_test=60), features, clustered(features), 0).train_to_test
    assert found.scores["acc"] == 1
    assert found.accuracy_matched_on_train == 0


def test_images_that_are_not_clustered_find_no_centres():
    features, labels = blobs(spread=0.1)
    features[:40] = torch.tensor([9.0, -9, 9, -9, 9, -9, 9, -9])
    truth = dataclasses.replace(truth_of(labels, n_test=60), clustered=torch.arange(240) >= 40)
    assert evaluate(truth, features, clustered(features), 0).train_to_test.train == 140


def test_fewer_images_to_train_on_than_clusters():
    features, labels = blobs()
    assert evaluate(truth_of(labels, n_test=237), features, clustered(features), 0).train_to_test is None


def test_neighbours_of_the_test_part_lie_in_the_train_part():
    features, labels = blobs(spread=3.0)
    labels[:30] = -1
    found = nearest(truth_of(labels, n_test=60), features)
    ranked = knn_predict(features[180:], features[30:180], labels[30:180], 20, 0.07)
    assert (found.protocol, found.bank, found.queries) == ("test part", 150, 60)
    assert found.accuracy.top1 == pytest.approx((ranked[:, 0] == labels[180:]).float().mean().item())
    assert 0.3 < found.accuracy.top1 < 1
    assert found.accuracy.top5 is None


def test_neighbours_without_parts_are_all_others():
    features, labels = blobs(n_classes=8, spread=4.0)
    labels[:30] = -1
    found = nearest(truth_of(labels), features)
    ranked = knn_leave_one_out(features[30:], labels[30:], 20, 0.07)
    hits = ranked == labels[30:, None]
    assert (found.protocol, found.bank, found.queries) == ("leave one out", 209, 210)
    assert found.accuracy.top1 == pytest.approx(hits[:, 0].float().mean().item())
    assert found.accuracy.top5 == pytest.approx(hits[:, :5].any(1).float().mean().item())
    assert found.accuracy.top1 < found.accuracy.top5 < 1


def test_too_few_labels_for_neighbours():
    features, labels = blobs(n=20)
    with pytest.raises(UserError, match=r"^20 nearest neighbours"):
        nearest(truth_of(labels), features)


@pytest.mark.parametrize(("n_test", "expected"), [(60, ("test part", 180, 60)), (0, ("random fifth", 192, 48))])
def test_a_probe_tests_where_it_did_not_train(n_test, expected):
    features, labels = blobs(spread=0.5)
    found = probe(truth_of(labels, n_test), features, 0)
    assert (found.protocol, found.train, found.test) == expected
    assert found.sgd.top1 > 0.9
    assert found.sgd.top5 is None
    assert found.lars is None
    # Features without content are told apart on the rows a classifier has seen, and on no others.
    noise = torch.randn(240, 150, generator=torch.Generator().manual_seed(0))
    assert probe(truth_of(labels, n_test), noise, 0).sgd.top1 < 0.5


def test_many_rows_are_probed_with_lars_as_well(monkeypatch):
    monkeypatch.setattr("shoal.evaluation.protocol.LARS_LEAST_ROWS", 180)
    features, labels = blobs()
    assert probe(truth_of(labels, 60), features, 0).lars is not None
    assert probe(truth_of(labels, 61), features, 0).lars is None
