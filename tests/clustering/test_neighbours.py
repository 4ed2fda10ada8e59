"""Exact neighbours against scikit-learn's."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import approximate_neighbours, cells, nearest_neighbours, neighbours
from shoal.clustering.neighbours import neighbours_by_cell


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


@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 1e-30), (torch.float64, 1e-200)])
def test_rows_whose_squares_vanish(dtype, unit):
    small = rows().to(dtype) * unit
    refused(nearest_neighbours, small, 3, "euclidean", match=f"squares vanish in {dtype}: divide all by their largest")
    torch.testing.assert_close(nearest_neighbours(small, 3, "cosine")[0], nearest_neighbours(rows(), 3, "cosine")[0])


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


def share_right(x, k=10):
    """Share of the neighbours that are as near as the true ones, up to a thousandth."""
    exact = x.double().numpy()
    every = cdist(exact, exact)  # by differences: scikit-learn's neighbours are by products
    np.fill_diagonal(every, np.inf)
    farthest = np.sort(every, axis=1)[:, k - 1 : k]
    index, distances = nearest_neighbours(x, k, "euclidean")
    true = np.linalg.norm(exact[:, None] - exact[index.numpy()], axis=2)
    np.testing.assert_allclose(distances.double().numpy(), true, rtol=1e-5)
    return float((true <= farthest * 1.001).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [1e3, 1e4, 1e6])
def test_groups_far_apart(apart, dtype):
    generator = torch.Generator().manual_seed(0)
    centers = apart * torch.randn(20, 8, generator=generator, dtype=dtype)
    group = torch.randint(20, (600,), generator=generator)
    assert share_right(centers[group] + torch.randn(600, 8, generator=generator, dtype=dtype)) == 1


def test_groups_so_far_apart_that_products_in_float64_are_coarse():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert share_right(x + 1e10 * (torch.arange(300) % 3)[:, None]) == 1


@pytest.mark.parametrize("far", [1e5, 1e7, 1e12])
def test_one_far_row(far):
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    x[0] = far
    assert share_right(x[1:]) == 1
    index, _ = nearest_neighbours(x, 10, "euclidean")
    same, _ = nearest_neighbours(x[1:], 10, "euclidean")
    assert torch.equal(index[1:], same + 1)


@pytest.mark.parametrize("times", [4, 10, 25])
def test_repeated_rows_are_nearest(times):
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).repeat_interleave(times, 0)
    _, distances = nearest_neighbours(x, 10, "euclidean")
    assert ((distances == 0).sum(1) == min(10, times - 1)).all()


def test_approximate_neighbours_in_a_narrow_cone():
    x = 1 + 1e-5 * torch.randn(300, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = torch.nn.functional.normalize(x)
    expected = torch.cdist(unit, unit).fill_diagonal_(torch.inf).topk(10, largest=False).indices
    assert (approximate_neighbours(x, torch.arange(300)).index == expected).float().mean() > 0.99


def test_narrow_cones_under_the_cosine():
    x = 1 + 1e-5 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.float()
    unit = torch.nn.functional.normalize(x.double())
    expected = torch.cdist(unit, unit).fill_diagonal_(torch.inf).topk(5, largest=False).values.square() / 2
    _, distances = nearest_neighbours(x, 5, "cosine")
    torch.testing.assert_close(distances.double(), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("n_distinct", [1, 3])
def test_neighbours_of_rows_that_are_nearly_all_alike(n_distinct):
    x = torch.eye(8)[torch.arange(4500) % 1500 % n_distinct]  # cells whose centres coincide: one has all the rows
    for found in neighbours_by_cell(x, torch.arange(4500), seed=0):
        assert (found.index != found.rows[:, None]).all()
        assert torch.allclose(found.similarity, torch.ones(()))


def test_groups_of_cells_whose_centres_coincide(monkeypatch):
    monkeypatch.setattr(cells, "CELL_ROWS", 100)
    monkeypatch.setattr(cells, "FLAT_CELLS", 30)
    x = torch.eye(8)[(torch.arange(9000) % 500 == 0).long()]
    for found in neighbours_by_cell(x, torch.arange(9000), seed=0):
        assert torch.allclose(found.similarity, torch.ones(()))


def test_two_clumps_that_are_narrow_and_far_apart():
    generator = torch.Generator().manual_seed(0)
    x = torch.where(torch.rand(400, 1, generator=generator) < 0.6, -1.07, 1.07) * torch.ones(8)
    x += 1e-6 * torch.randn(400, 8, generator=generator)
    apart = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    index, _ = nearest_neighbours(x, 5, "euclidean")
    torch.testing.assert_close(apart.gather(1, index), apart.topk(5, largest=False).values, rtol=1e-6, atol=0)
