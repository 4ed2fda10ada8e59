"""k-means' runs in the principal subspace of wide rows."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Theirs
from sklearn.metrics import adjusted_rand_score

from shoal.clustering import KMeans
from shoal.clustering.kmeans import restarts
from shoal.clustering.kmeans.subspace import DIMENSIONS, WIDE, Subspace, is_wide
from shoal.clustering.rows import Rows

D = WIDE * DIMENSIONS


def wide(n=700, k=12, seed=0, between=0.35):
    """Groups that overlap in each column, told apart by many."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=g)
    return between * torch.randn(k, D, generator=g)[labels] + torch.randn(n, D, generator=g) + 1, labels


def test_the_subspace_is_that_of_the_first_components():
    x = wide(k=4, between=1.0)[0]
    found = Subspace.of(Rows(x, "euclidean"), 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(10), atol=1e-5, rtol=0)
    centred = (x - x.mean(0)).numpy()
    most = np.square(np.linalg.svd(centred, compute_uv=False)[:3]).sum()
    assert np.square(centred @ found.axes.numpy()).sum() > most
    rows = found.project(Rows(x, "euclidean"))
    torch.testing.assert_close(found.lift(rows[:5]) - found.mean, (x[:5] - found.mean) @ found.axes @ found.axes.T)


def test_weights_count_as_repeated_rows():
    x = wide()[0]
    weights = torch.randint(1, 4, (len(x),), generator=torch.Generator().manual_seed(0))
    weighted, repeated = (
        Subspace.of(rows, 5, torch.Generator().manual_seed(0))
        for rows in (Rows(x, "euclidean", weights=weights.float()), Rows(x.repeat_interleave(weights, 0), "euclidean"))
    )
    torch.testing.assert_close(weighted.axes, repeated.axes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("metric", [pytest.param("euclidean", marks=pytest.mark.slow), "cosine"])
def test_every_seed_ends_in_the_best_optimum(metric):
    x, labels = wide()
    models = [KMeans(12, metric=metric, random_state=seed).fit(x) for seed in range(4)]
    inertias = [model.inertia_ for model in models]
    assert max(inertias) < 1.0001 * min(inertias)
    assert min(adjusted_rand_score(labels, model.labels_) for model in models) > 0.98
    if metric == "euclidean":
        assert max(inertias) < 1.0001 * Theirs(12, n_init=20, random_state=0).fit(x.numpy()).inertia_


def test_rows_in_float64_may_be_tiny():
    x = wide()[0].double()
    found, tiny = (KMeans(12, random_state=0).fit(scale * x).labels_ for scale in (1.0, 1e-60))
    assert adjusted_rand_score(found, tiny) == 1


def test_it_is_left_out_where_it_does_not_pay(monkeypatch):
    x = wide()[0]
    assert is_wide(Rows(x, "euclidean"), DIMENSIONS)
    assert not is_wide(Rows(x, "euclidean"), DIMENSIONS + 1)
    assert not is_wide(Rows(x[:, 1:], "euclidean"), 2)
    assert not is_wide(Rows(x[: D - 1], "euclidean"), 2)
    monkeypatch.setattr(restarts, "start_from_subspace", None)
    KMeans(12, init=x[:12].numpy(), n_init=1).fit(x.numpy())
    KMeans(12, random_state=0).fit(x[: D - 1])


def test_wide_rows_whose_mean_is_exactly_zero():
    model = KMeans(1, metric="cosine", random_state=0).fit(np.vstack([np.eye(512), -np.eye(512)]).astype("f4"))
    assert np.linalg.norm(model.cluster_centers_) == pytest.approx(1)
