"""k-means of rows that several ranks hold shares of: the clusters of one process that holds all."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from tests.ranks import on_ranks

from shoal import distributed
from shoal.clustering import KMeans
from shoal.clustering.kmeans import init as sample
from shoal.clustering.kmeans import kmeans
from shoal.errors import UserError

SHARES = {2: (700, 300), 3: (420, 0, 580)}
CASES = [
    ("euclidean", "k-means++", "all"),
    ("euclidean", "k-means++", "sample"),
    ("euclidean", "k-means||", "sample"),
    ("euclidean", "random", "sample"),
    ("euclidean", "given", "all"),
    ("cosine", "k-means++", "all"),
    ("cosine", "k-means++", "sample"),
]


def rows():
    """Twelve groups, three of them small and one a single far row, so that seeds and swaps have work to do."""
    g = torch.Generator().manual_seed(0)
    centers = 4 * torch.randn(12, 6, generator=g)
    numbers = torch.randint(12, (1000,), generator=g)
    x = centers[numbers.where(torch.rand(1000, generator=g) > 0.3, 0)] + torch.randn(1000, 6, generator=g)
    x[-1] = 100
    return x, torch.rand(1000, generator=g) + 0.5


def outcome(x, weights, case, sharded):
    metric, init, size = case
    start = rows()[0][:9] if init == "given" else init
    settings = {"metric": metric, "init": start, "n_init": 3, "weights": weights, "sharded": sharded}
    with mock.patch.object(sample, "LEAST_ROWS", 100 if size == "sample" else 8192):
        return kmeans(x, 9, generator=torch.Generator().manual_seed(3), **settings)


def mine(n_ranks, of):
    first = sum(SHARES[n_ranks][: distributed.rank()])
    return of[first : first + SHARES[n_ranks][distributed.rank()]]


def on_a_rank(n_ranks):
    x, weights = (mine(n_ranks, of) for of in rows())
    found = [outcome(x, weights, case, True) for case in CASES]
    model = KMeans(4, n_init=2, random_state=0, sharded=True).fit(x)
    spoilt = x.clone() if distributed.rank() else x.index_fill(0, torch.tensor([0]), torch.nan)
    with pytest.raises(UserError, match=r"1 of 1000 rows of features hold NaN"):  # on all ranks, or some would wait
        outcome(spoilt, weights, CASES[0], True)
    return [(c.labels.numpy(), c.centers.numpy(), c.distances.numpy()) for c in found], model.inertia_


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", SHARES)
def test_unequal_shares_give_the_clusters_of_one_process(n_ranks):
    answers = on_ranks(n_ranks, partial(on_a_rank, n_ranks))
    x, weights = rows()
    for i, case in enumerate(CASES):
        alone = outcome(x, weights, case, False)
        labels, centers, distances = zip(*(answer[0][i] for answer in answers), strict=True)
        np.testing.assert_array_equal(np.concatenate(labels), alone.labels, err_msg=str(case))
        np.testing.assert_allclose(np.concatenate(distances), alone.distances, rtol=1e-4, atol=1e-4)
        for same in centers:
            np.testing.assert_allclose(same, alone.centers, rtol=1e-6, atol=1e-6)
    inertia = KMeans(4, n_init=2, random_state=0).fit(x).inertia_
    assert [answer[1] for answer in answers] == pytest.approx([inertia] * n_ranks, rel=1e-6)


def test_a_rank_alone_clusters_its_own_rows():
    x, _ = rows()
    found, cut = (kmeans(x, 5, generator=torch.Generator(), sharded=sharded) for sharded in (False, True))
    assert torch.equal(found.labels, cut.labels)
