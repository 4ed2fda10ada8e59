"""Where rows are drawn on the map."""

import math

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsRegressor
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import layout, map_method, map_positions, maps
from shoal.clustering.maps import place_among
from shoal.clustering.rows import subsample


def rows(n=60, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)) + 2


@by_every_metric
@pytest.mark.parametrize("n", [0, 1, 2, 14, 15, 40])
def test_any_number_of_rows(n, metric):
    positions = map_positions(rows(n), metric=metric, seed=0)
    assert positions.shape == (n, 2)
    assert positions.dtype == torch.float32
    assert positions.isfinite().all()
    assert len(positions.unique(dim=0)) == n


def test_a_few_rows_are_shown_by_their_principal_components():
    x = rows(14) - rows(14).mean(0)
    left, sizes, _ = np.linalg.svd(x.numpy(), full_matrices=False)
    expected = np.abs((left * sizes)[:, :2]) / (left * sizes)[:, 0].std()
    np.testing.assert_allclose(map_positions(x, metric="euclidean", seed=0).abs(), expected, atol=1e-4)


def test_a_single_column_and_equal_rows():
    assert map_positions(rows(5, 1), metric="euclidean", seed=0)[:, 1].tolist() == [0] * 5
    assert map_positions(rows(30, 1), metric="euclidean", seed=0).isfinite().all()
    for n in (5, 30):
        assert not map_positions(torch.ones(n, 3), metric="cosine", seed=0).any()
    assert map_positions(rows(4).repeat(10, 1), metric="euclidean", seed=0).isfinite().all()


@by_every_metric
def test_neighbours_stay_neighbours_far_from_the_origin_too(metric):
    x = torch.nn.functional.normalize(torch.randn(120, 8, generator=torch.Generator().manual_seed(0)))
    x = x[:, :1] * torch.eye(8)[torch.arange(120) % 4] * 6 + x
    given = x * torch.linspace(1, 9, 120)[:, None] if metric == "cosine" else x.double() + 1e6
    positions = map_positions(given, metric=metric, seed=0)
    assert trustworthiness(x.numpy(), positions.numpy(), n_neighbors=5, metric=metric) > 0.9


@by_every_metric
def test_the_others_are_placed_among_their_nearest(metric, monkeypatch):
    monkeypatch.setattr(maps, "MAX_ROWS", 40)
    x = rows()
    positions = map_positions(x, metric=metric, seed=3)
    drawn = subsample(60, 40, torch.Generator().manual_seed(3))
    torch.testing.assert_close(positions[drawn], map_positions(x[drawn], metric=metric, seed=3))
    peer = KNeighborsRegressor(3, weights="distance", metric=metric, algorithm="brute").fit(x[drawn], positions[drawn])
    others = sorted(set(range(60)) - set(drawn.tolist()))
    np.testing.assert_allclose(positions[others], peer.predict(x[others]), atol=1e-3)
    assert "t-SNE of 40 drawn" in map_method(60)


def test_a_seed_repeats_it():
    first, again = (map_positions(rows(), metric="cosine", seed=2**63 - 1) for _ in range(2))
    assert torch.equal(first, again)


def test_it_says_how_a_map_was_made():
    assert [map_method(n) for n in (14, 15, 10_000)] == ["principal components", "t-SNE", "t-SNE"]


def test_mistakes():
    spoilt = rows(5)
    spoilt[1, 1] = torch.nan
    refused(map_positions, spoilt, metric="euclidean", seed=0, match="NaN")
    refused(map_positions, torch.zeros(5, 2), metric="cosine", seed=0, match="zero")


def test_the_name_of_version_0_1():
    assert layout is map_positions


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_the_unit_of_the_features_does_not_matter(unit):
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = map_positions(2.0 ** round(math.log2(unit)) * x, metric="euclidean", seed=0)
    assert torch.equal(there, map_positions(x, metric="euclidean", seed=0))  # a power of two changes no digit


@pytest.mark.parametrize("unit", [1e-9, 1.0])
def test_a_row_that_is_laid_out_is_placed_where_it_lies(unit):
    x = unit * torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    places = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(place_among(x, places, x, metric="euclidean"), places, rtol=1e-4, atol=1e-4)
