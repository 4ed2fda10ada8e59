"""Scores without labels beside scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from shoal.clustering import calinski_harabasz, davies_bouldin, internal, silhouette
from shoal.errors import UserError

few = settings(max_examples=30, deadline=None, derandomize=True)
METRICS = ("euclidean", "cosine")


def data(n=200, d=6, k=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    centers = torch.randn(k, d, generator=generator)
    return (centers[labels] + torch.randn(n, d, generator=generator)).to(dtype), labels


def all_scores(features, labels):
    """The four, and scikit-learn's."""
    ours = [*(silhouette(features, labels, metric=m) for m in METRICS)]
    ours += [davies_bouldin(features, labels), calinski_harabasz(features, labels)]
    peers = [silhouette_score(features, labels, metric=m) for m in METRICS]
    return ours, [*peers, davies_bouldin_score(features, labels), calinski_harabasz_score(features, labels)]


def duplicated():
    features, labels = data(60)
    return torch.cat([features, features, features[:7]]), torch.cat([labels, labels, labels[:7] + 1])


def far_away():
    features, labels = data()
    return features + 1e5, labels


CASES = {
    "plain": data(),
    "clusters of one row": (data()[0], torch.cat([data()[1][:195], torch.arange(10, 15)])),
    "gaps": (data()[0], 10**12 + 7 * data()[1]),
    "duplicate rows": duplicated(),
    "far from the origin": far_away(),
    "one dimension": data(d=1),
    "many clusters": data(n=60, k=50),
    "several chunks": data(n=2500, d=3, k=3),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_scikit_learns(case):
    ours, peers = all_scores(*CASES[case])
    assert ours == pytest.approx(peers, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_narrow_features_lose_nothing_more(dtype):
    features, labels = data(dtype=dtype)
    _, peers = all_scores(features.double(), labels)
    for metric, peer in zip(METRICS, peers, strict=False):
        assert silhouette(features, labels, metric=metric) == pytest.approx(peer, rel=1e-6)
    assert davies_bouldin(features, labels) == pytest.approx(peers[2], rel=1e-6)
    assert calinski_harabasz(features, labels) == pytest.approx(peers[3], rel=1e-6)


def test_chunks_do_not_show(monkeypatch):
    features, labels = data(n=150)
    whole = silhouette(features, labels, metric="euclidean")
    for step in (13, 64, 149):
        monkeypatch.setattr(internal, "_step", lambda *_, step=step: step)
        assert silhouette(features, labels, metric="euclidean") == pytest.approx(whole, abs=1e-8)


def test_rows_without_a_cluster_are_left_out():
    features, labels = data()
    more = torch.cat([features, torch.full((20, 6), torch.nan, dtype=torch.float64)])
    with_gaps = torch.cat([labels, torch.full((20,), -1)])
    order = torch.randperm(220, generator=torch.Generator().manual_seed(0))
    ours, _ = all_scores(features, labels)
    for metric, value in zip(METRICS, ours, strict=False):
        assert silhouette(more[order], with_gaps[order], metric=metric) == pytest.approx(value, abs=1e-8)
    assert davies_bouldin(more[order], with_gaps[order]) == pytest.approx(ours[2], rel=1e-12)
    assert calinski_harabasz(more[order], with_gaps[order]) == pytest.approx(ours[3], rel=1e-12)


def test_a_sample_is_scored_by_itself():
    features, labels = data()
    labels[::3] = -1
    score = silhouette(features, labels, metric="euclidean", generator=torch.Generator().manual_seed(3), n_rows=50)
    kept = (labels >= 0).nonzero()[:, 0]
    drawn = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(3))[:50]]
    assert score == pytest.approx(silhouette_score(features[drawn], labels[drawn]), abs=1e-9)
    whole = silhouette(features, labels, metric="euclidean")
    generator = torch.Generator().manual_seed(0)
    assert silhouette(features, labels, metric="euclidean", generator=generator, n_rows=10**9) == pytest.approx(whole)


def test_directions_alone_count_under_the_cosine():
    features, labels = data()
    directions = torch.nn.functional.normalize(features)
    for score, peer in ((davies_bouldin, davies_bouldin_score), (calinski_harabasz, calinski_harabasz_score)):
        assert score(features, labels, metric="cosine") == pytest.approx(peer(directions, labels), rel=1e-6)


@pytest.mark.parametrize("labels", [[3] * 6, [-1] * 6, [0, 1, 2, 3, 4, 5], [0, 1, 2, -1, -1, -1]])
def test_nothing_to_compare_is_nan(labels):
    features = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(labels)
    assert np.isnan(silhouette(features, labels, metric="euclidean"))
    assert np.isnan(davies_bouldin(features, labels))
    assert np.isnan(calinski_harabasz(features, labels))


def test_all_rows_the_same():
    features, labels = torch.ones(6, 2), torch.tensor([0, 0, 0, 1, 1, 1])
    assert silhouette(features, labels, metric="euclidean") == silhouette_score(features, labels) == 0
    assert davies_bouldin(features, labels) == davies_bouldin_score(features, labels) == 0
    assert calinski_harabasz(features, labels) == calinski_harabasz_score(features, labels) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_distances(value):
    features, labels = data()
    features[3, 2] = value
    for score in (lambda *x: silhouette(*x, metric="euclidean"), davies_bouldin, calinski_harabasz):
        with pytest.raises(UserError, match="1 of 200 rows of features hold NaN or infinity"):
            score(features, labels)


def test_no_direction():
    features, labels = data()
    features[3] = 0
    with pytest.raises(UserError, match="is zero and has no cosine"):
        silhouette(features, labels, metric="cosine")


@pytest.mark.parametrize(("generator", "n_rows"), [(None, 10), (torch.Generator(), 0)])
def test_no_sample(generator, n_rows):
    with pytest.raises(UserError, match=f"n_rows={n_rows} needs"):
        silhouette(*data(), metric="cosine", generator=generator, n_rows=n_rows)


@few
@given(st.lists(st.integers(-1, 4), min_size=8, max_size=40), st.randoms(use_true_random=False))
def test_order_of_rows_and_numbers_of_clusters_do_not_matter(labels, random):
    features, labels = data(len(labels))[0], torch.tensor(labels)
    order = torch.tensor(random.sample(range(len(labels)), len(labels)))
    names = torch.tensor([*random.sample(range(100), 5), -1])  # -1 stays
    for score in (lambda *x: silhouette(*x, metric="cosine"), davies_bouldin, calinski_harabasz):
        assert score(features[order], names[labels][order]) == pytest.approx(score(features, labels), nan_ok=True)


@pytest.mark.parametrize("metric", METRICS)
def test_a_far_first_row_and_equal_rows_lose_no_digits(metric):
    features, labels = data(150)
    features[0] *= 1e8
    assert silhouette(features, labels, metric=metric) == pytest.approx(
        silhouette_score(features, labels, metric=metric)
    )
    features = data(5, d=7)[0].repeat_interleave(2, 0)
    labels = torch.arange(10) % 3
    apart = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    if metric == "cosine":
        apart = (1 - torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)).clamp(min=0)
    expected = silhouette_score(apart.where(apart > 1e-12, 0), labels, metric="precomputed")
    assert silhouette(features, labels, metric=metric) == pytest.approx(expected, abs=1e-9)


def test_a_narrow_cone_under_the_cosine():
    features, labels = data(120)
    cone = 1 + 1e-7 * features
    unit = torch.nn.functional.normalize(cone)
    squared = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = silhouette_score(squared, labels, metric="precomputed")
    assert silhouette(cone, labels, metric="cosine") == pytest.approx(expected, abs=1e-6)
