"""UMAP + k-means: who votes for whom. UMAP itself is tested in test_manifold.py."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import UMAPKMeans
from shoal.clustering import umap as umapkmeans
from shoal.clustering.rows import distinct_rows


def groups(n=90, k=3, d=6, seed=0, spread=0.3):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    centers = 3 * torch.randn(k, d, generator=torch.Generator().manual_seed(9))
    return centers[labels] + spread * torch.randn(n, d, generator=g), labels


@pytest.mark.slow
def test_umap_finds_separate_groups_and_neighbours_vote_for_new_rows():
    x, labels = groups()
    model = UMAPKMeans(3, random_state=0).fit(x)
    assert adjusted_rand_score(labels, model.labels_) == 1
    later, where = groups(30, seed=1)
    assert adjusted_rand_score(where, model.predict(later)) == 1


@pytest.mark.slow
def test_equal_rows_are_embedded_as_one():
    x = groups(9)[0]
    copies = x.repeat(5, 1)
    model = UMAPKMeans(3, random_state=0).fit(copies)
    for clusters in (model.labels_, model.predict(copies)):
        assert (torch.as_tensor(clusters).view(5, 9) == torch.as_tensor(clusters)[:9]).all()
    assert torch.equal(distinct_rows(copies)[1], torch.arange(9).repeat(5))
    assert len(distinct_rows(torch.tensor([[0.0, 1], [-0.0, 1]]))[0]) == 1


@pytest.mark.usefixtures("no_umap")
@by_every_metric
def test_votes_are_those_of_a_plain_loop(metric):
    x, later = groups(spread=3.0)[0].numpy(), groups(20, seed=1, spread=3.0)[0].numpy()
    model = UMAPKMeans(4, metric=metric, random_state=0).fit(x)
    apart = (cosine_distances if metric == "cosine" else euclidean_distances)(later.astype(float), x.astype(float))
    expected = np.zeros((20, 4))
    for row, distances in enumerate(apart):
        near = np.argsort(distances)[:10]
        for i in near:
            expected[row, model.labels_[i]] += 1 / (distances[i] + distances[near].mean())
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(later), expected, atol=1e-5)
    np.testing.assert_array_equal(model.predict(later), model.predict_proba(later).argmax(1))


@pytest.mark.usefixtures("no_umap")
@by_every_metric
def test_a_fitted_row_keeps_its_cluster_and_hears_its_neighbours(metric):
    x = groups(spread=3.0)[0]
    model = UMAPKMeans(4, metric=metric, random_state=0).fit(x)
    torch.testing.assert_close(model.predict(x), model.labels_)
    own = model.predict_proba(x).gather(1, model.labels_[:, None])
    assert 0.509 < own.min() < own.max() <= 1.0001
    assert len(own.unique()) > 20


@pytest.mark.usefixtures("no_umap")
def test_beyond_the_sample_rows_are_put_by_vote(monkeypatch):
    monkeypatch.setattr(umapkmeans, "MAX_ROWS", 50)
    x, labels = groups()
    drawn = []
    own = umapkmeans.subsample
    monkeypatch.setattr(umapkmeans, "subsample", lambda n, _most, g: drawn.append(own(n, 50, g)) or drawn[0])
    model = UMAPKMeans(3, random_state=0).fit(x)
    assert model.rows_.shape == (50, 6)
    torch.testing.assert_close(model.labels_[drawn[0]], model.row_labels_)
    assert adjusted_rand_score(labels, model.labels_) == 1


@pytest.mark.usefixtures("no_umap")
def test_equal_rows_share_the_vote():
    model = UMAPKMeans(1, random_state=0).fit(torch.ones(20, 3))
    torch.testing.assert_close(model.predict_proba(torch.ones(2, 3)), torch.ones(2, 1))


def test_mistakes():
    x = groups()[0]
    refused(UMAPKMeans(91).fit, x, match="n_clusters=91 is more than there are rows")
    refused(UMAPKMeans(1).fit, x[:2], match=r"UMAP has no graph of 2 rows \(n_samples=2\): give at least 3")
    spoilt = x.clone()
    spoilt[3, 1] = torch.nan
    refused(UMAPKMeans(2).fit, spoilt, match="NaN")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_equal_rows_are_one_cluster(metric, monkeypatch):
    scattered = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(umapkmeans, "umap_embedding", lambda _rows, **_settings: scattered)
    model = UMAPKMeans(3, metric=metric, random_state=0).fit(np.ones((40, 8)))
    assert set(model.labels_) == set(model.predict(np.ones((40, 8)))) == {0}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_two_rows_that_differ_are_two_clusters():
    x = np.random.default_rng(0).normal(size=(2, 6))[np.arange(60) % 2]
    labels = UMAPKMeans(5, random_state=0).fit(x).labels_
    assert set(labels[::2]) != set(labels[1::2])
    assert len(set(labels)) == 2
