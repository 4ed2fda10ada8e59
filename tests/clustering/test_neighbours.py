"""Exact neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import nearest_neighbours, neighbours


def rows(n=150, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 20.0


@by_every_metric
@pytest.mark.parametrize("asked", [False, True])
def test_they_are_scikit_learns(metric, asked, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 16 * 150)  # in several parts
    queries = rows(37, seed=1) if asked else None
    numbers, distances = nearest_neighbours(rows(), 10, metric, queries)
    peer = NearestNeighbors(n_neighbors=10, metric=metric, algorithm="brute").fit(rows().double().numpy())
    expected, expected_numbers = peer.kneighbors(None if queries is None else queries.double().numpy())
    np.testing.assert_allclose(distances, expected, atol=1e-6 if metric == "cosine" else 1e-4)
    assert (numbers.numpy() == expected_numbers).mean() > 0.98


@by_every_metric
def test_no_row_is_its_own_neighbour_even_among_equal_ones(metric):
    numbers, distances = nearest_neighbours(torch.ones(5, 3), 4, metric)
    assert all(set(row) == set(range(5)) - {i} for i, row in enumerate(numbers.tolist()))
    assert not distances.any()


@pytest.mark.usefixtures("without_type_checks")
@by_every_metric
def test_what_has_no_neighbours(metric):
    refused(nearest_neighbours, rows(5), 5, metric, match="k=5 exceeds the number of neighbours: give at most 4")
    refused(nearest_neighbours, rows(5), 6, metric, rows(5), match="give at most 5")
    refused(nearest_neighbours, rows(5), 0, metric, match="k=0")
    refused(nearest_neighbours, rows(5), 2, metric, rows(5, d=4), match="queries have 4 columns: give 6")
    spoilt = rows(5)
    spoilt[2, 1] = torch.nan
    refused(nearest_neighbours, spoilt, 2, metric, match="NaN")
    refused(nearest_neighbours, rows(5), 2, metric, spoilt, match="NaN")
    if metric == "cosine":
        refused(nearest_neighbours, torch.zeros(5, 2), 2, metric, match="zero")
