"""Where rows are drawn; UMAP itself is tested in test_manifold.py."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import layout as plane
from shoal.clustering import map_positions


def rows(n=60, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)) + 2


@pytest.mark.parametrize("n", [0, 1, 2, 14])
def test_a_few_rows_stand_in_their_principal_plane(n):
    places = map_positions(rows(n), metric="euclidean", seed=0)
    assert places.shape == (n, 2)
    assert places.dtype == torch.float32
    if n == 14:
        np.testing.assert_allclose(places.abs(), np.abs(PCA(2).fit_transform(rows(n).numpy())), atol=1e-4)


def test_a_single_column_and_equal_rows():
    assert map_positions(rows(5, 1), metric="euclidean", seed=0)[:, 1].tolist() == [0] * 5
    assert not map_positions(torch.ones(5, 3), metric="cosine", seed=0).abs().max() > 1e-6


@pytest.mark.usefixtures("no_umap")
@by_every_metric
def test_the_others_stand_among_their_nearest(metric, monkeypatch):
    monkeypatch.setattr(plane, "MAX_ROWS", 40)
    x = rows()
    places = map_positions(x, metric=metric, seed=3)
    drawn = plane.subsample(60, 40, torch.Generator().manual_seed(3))
    torch.testing.assert_close(places[drawn], x[drawn, :2])
    peer = KNeighborsRegressor(3, weights="distance", metric=metric, algorithm="brute").fit(x[drawn], x[drawn, :2])
    others = sorted(set(range(60)) - set(drawn.tolist()))
    np.testing.assert_allclose(places[others], peer.predict(x[others]), atol=1e-3)


@pytest.mark.usefixtures("no_umap")
def test_a_seed_repeats_it():
    x = rows()
    torch.testing.assert_close(
        map_positions(x, metric="cosine", seed=1), map_positions(x, metric="cosine", seed=1), rtol=0, atol=0
    )


def test_mistakes():
    spoilt = rows(5)
    spoilt[1, 1] = torch.nan
    refused(layout, spoilt, metric="euclidean", seed=0, match="NaN")
    refused(layout, torch.zeros(5, 2), metric="cosine", seed=0, match="zero")
