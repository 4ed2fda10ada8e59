"""The inner loop of k-means against brute force."""

import pytest
import torch

from shoal.clustering.kmeans.nearest import nearest_two, rough_nearest
from shoal.clustering.kmeans.partition import ClusterSums


def problem(n, d, k, dtype=torch.float32, scale=1.0):
    g = torch.Generator().manual_seed(n + d + k)
    return (scale * torch.randn(m, d, generator=g, dtype=torch.float64).to(dtype) for m in (n, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("d", "k"), [(2, 1), (2, 2), (3, 1000), (64, 5), (256, 100), (8, 1025), (4, 5000)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_nearest_and_bounds(dtype, d, k, scale):
    x, centers = problem(500, d, k, dtype, scale)
    labels, first, second = nearest_two(x, centers, x.square().sum(1))
    exact = torch.cdist(x.double(), centers.double())
    nearest, order = exact.sort(1)
    assert (exact.gather(1, labels[:, None])[:, 0] <= nearest[:, 0] * (1 + 1e-5)).all()
    assert (labels == order[:, 0]).float().mean() > 0.99
    assert (first >= nearest[:, 0] * (1 - 1e-6)).all()
    torch.testing.assert_close(first.double(), nearest[:, 0], rtol=1e-3, atol=0.03 * scale)
    if k == 1:
        assert second.isinf().all()
    else:
        assert (second <= nearest[:, 1] * (1 + 1e-6)).all()
        assert second.mean() > 0.95 * nearest[:, 1].mean()


def test_ties_go_to_one_of_the_nearest_and_leave_no_room():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    centers = x[:3].repeat(40, 1)
    labels, first, second = nearest_two(x, centers, x.square().sum(1))
    assert torch.equal(labels, torch.cdist(x, x[:3]).argmin(1))  # of equals the first
    assert (second <= first + 1e-4).all()


def test_bfloat16_errs_only_where_two_centres_are_about_as_near():
    x, centers = problem(2000, 128, 50)
    exact = torch.cdist(x, centers).square()
    chosen = exact.gather(1, rough_nearest(x, centers)[:, None])[:, 0]
    assert (chosen - exact.amin(1) < 0.01 * exact.mean()).all()


def test_sums_follow_rows_that_move_and_lose_nothing():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 5, generator=g) + 100
    weights = torch.rand(len(x), generator=g)
    sums = ClusterSums(4, 5, torch.device("cpu"))
    labels = torch.full((len(x),), -1)
    for _ in range(30):
        moving = torch.rand(len(x), generator=g) < 0.3
        new = torch.randint(4, (int(moving.sum()),), generator=g)
        sums.move(x[moving], labels[moving], new, weights[moving])
        labels[moving] = new
    for c in range(4):
        rows, w = x[labels == c].double(), weights[labels == c].double()
        torch.testing.assert_close(sums.sums[c], (rows * w[:, None]).sum(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(sums.counts[c], w.sum(), rtol=1e-12, atol=0)
