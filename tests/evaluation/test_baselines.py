"""Plain methods beside a clustering, against scikit-learn's; UMAP itself has tests of its own."""

import dataclasses
import logging
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from tests.evaluation.examples import blobs, clustered, truth_of
from tests.runs import tiny_images

from shoal.evaluation import baselines, plain_baselines

pytestmark = pytest.mark.usefixtures("umap")


class Umap:
    """In place of UMAP: keeps what it was asked, and answers with points that tell the classes apart."""

    def __init__(self, labels):
        self.labels = labels
        self.asked = []

    def __call__(self, features, *, metric, seed):
        self.asked.append((features, metric, seed))
        return F.one_hot(self.labels[: len(features)], 4).float()[:, :3]


@pytest.fixture
def umap(monkeypatch):
    double = Umap(torch.arange(240) % 4)
    monkeypatch.setattr(baselines, "umap_embedding", double)
    return double


def peer(rows, k=4):
    return KMeans(k, n_init=20, random_state=0).fit_predict(rows.numpy())


def test_k_means_of_the_features_is_scikit_learns():
    features, labels = blobs(spread=1.0)
    by_halves = dataclasses.replace(clustered(features), labels=torch.arange(240) // 120)
    (plain, _) = plain_baselines(truth_of(labels), features, by_halves, 0)
    expected = peer(F.normalize(features))
    assert (plain.method, plain.of, plain.sampled, plain.failed) == ("k-means", "features", None, None)
    assert plain.scores["ari"] == pytest.approx(adjusted_rand_score(labels, expected), abs=0.02)
    assert plain.scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, expected), abs=0.02)
    assert plain.scores.keys() >= {"acc", "purity"}
    assert plain.agreement == pytest.approx(adjusted_rand_score(by_halves.labels, expected), abs=0.02)
    assert plain.agreement < 0.1 < 0.5 < plain.scores["ari"]


def test_k_means_looks_at_what_umap_made(umap):
    features, labels = blobs(spread=4.0)
    plain, better = plain_baselines(truth_of(labels), features, clustered(features), 7)
    assert plain.scores["acc"] < better.scores["acc"] == 1
    assert better.method == "UMAP + k-means"
    ((rows, metric, seed),) = umap.asked
    torch.testing.assert_close(rows, features)
    assert (metric, seed) == ("cosine", 7)


def test_pixels_are_clustered_by_euclidean_distance(umap):
    images = tiny_images(240)
    rows = images.pixels.flatten(1) / 255
    features = torch.randn(240, 5, generator=torch.Generator().manual_seed(0))
    found = plain_baselines(truth_of(images.targets), features, clustered(features), 0, pixels=images.pixels)
    assert [(plain.of, plain.method) for plain in found[2:]] == [("pixels", "k-means"), ("pixels", "UMAP + k-means")]
    assert found[0].scores["acc"] < 0.5
    assert found[2].scores["ari"] == pytest.approx(adjusted_rand_score(images.targets, peer(rows)))
    assert umap.asked[1][1] == "euclidean"
    torch.testing.assert_close(umap.asked[1][0], rows)


def test_large_images_are_averaged_and_small_ones_are_not(umap):
    pixels = torch.randint(0, 256, (240, 3, 64, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, labels = blobs()
    plain_baselines(truth_of(labels), features, clustered(features), 0, pixels=pixels)
    means = pixels.numpy().reshape(240, 3, 32, 2, 30).mean(3) / 255
    np.testing.assert_allclose(umap.asked[1][0].numpy(), means.reshape(240, -1), rtol=1e-5)


def test_of_many_rows_some_are_drawn_but_not_for_k_means_of_the_features(umap, monkeypatch):
    monkeypatch.setattr(baselines, "MAX_ROWS", 100)
    features, labels = blobs()
    pixels = tiny_images(240).pixels
    truth = truth_of(labels)
    found = plain_baselines(truth, features, clustered(features), 3, pixels=pixels)
    assert [plain.sampled for plain in found] == [None, 100, 100, 100]
    drawn = [int((features == row).all(1).nonzero()) for row in umap.asked[0][0]]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 100
    torch.testing.assert_close(umap.asked[1][0], pixels[drawn].flatten(1) / 255)
    rows = peer(pixels[drawn].flatten(1) / 255)
    assert found[2].scores["ari"] == pytest.approx(adjusted_rand_score(labels[drawn], rows))
    assert found == plain_baselines(truth, features, clustered(features), 3, pixels=pixels)
    plain_baselines(truth, features, clustered(features), 4)
    assert not torch.equal(umap.asked[-1][0], umap.asked[0][0])


def test_images_that_are_not_clustered_are_left_out(umap):
    features, labels = blobs(spread=0.1)
    take_part = torch.arange(240) >= 40
    clustering = clustered(features)
    clustering = dataclasses.replace(clustering, labels=clustering.labels.where(take_part, -1))
    features[:40] = torch.nan
    truth = dataclasses.replace(truth_of(labels.where(take_part, -1)), clustered=take_part)
    plain, _ = plain_baselines(truth, features, clustering, 0)
    assert plain.scores["acc"] == plain.agreement == 1
    assert len(umap.asked[0][0]) == 200
    assert plain.sampled is None


def test_without_labels_agreement_is_left():
    features, labels = blobs(spread=0.1)
    found = plain_baselines(truth_of(torch.full_like(labels, -1)), features, clustered(features), 0)
    assert [plain.scores for plain in found] == [{}, {}]
    assert [plain.agreement for plain in found] == [1, 1]


def test_other_seeds_than_those_of_the_clusters():
    """Noise has no clusters, so that other seeds find others."""
    features = torch.randn(240, 8, generator=torch.Generator().manual_seed(0))
    plain, _ = plain_baselines(truth_of(torch.arange(240) % 4), features, clustered(features), 0)
    assert plain.agreement < 1


def test_a_failure_costs_its_own_figures_alone(monkeypatch):
    def fails(*_, **__):
        raise ValueError("n_neighbors must be greater than 1")

    monkeypatch.setattr(baselines, "umap_embedding", fails)
    features, labels = blobs()
    features[0] = 0
    pixels = torch.zeros(240, 3, 4, 4, dtype=torch.uint8)
    clustering = clustered(features + 1)
    found = plain_baselines(truth_of(labels), features, clustering, 0, pixels=pixels)
    assert "is zero and has no cosine" in found[0].failed
    assert found[1].failed == "UMAP of 240 rows failed, n_neighbors must be greater than 1"
    assert found[2].failed is None
    assert [plain.agreement is None for plain in found] == [True, True, False, True]
    monkeypatch.setattr(baselines, "MAX_ROWS", 3)
    few = plain_baselines(truth_of(labels), features, clustering, 0, pixels=pixels)[2]
    assert "n_clusters=4 is more than there are rows" in few.failed


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_any_seed_of_a_run_will_do(seed):
    features, labels = blobs()
    assert plain_baselines(truth_of(labels), features, clustered(features), seed)[0].failed is None


@pytest.mark.parametrize(("quick_rows", "loaded", "said"), [(240, True, False), (239, True, True), (240, False, True)])
def test_who_has_to_wait_is_told(umap, monkeypatch, caplog, quick_rows, loaded, said):
    monkeypatch.setattr(baselines, "QUICK_ROWS", quick_rows)
    monkeypatch.setitem(sys.modules, "umap", umap)
    if not loaded:
        monkeypatch.delitem(sys.modules, "umap")
    features, labels = blobs()
    with caplog.at_level(logging.WARNING, "shoal"):
        plain_baselines(truth_of(labels), features, clustered(features), 0)
    assert ("comparing with k-means and UMAP on 240 images" in caplog.text) == said
