"""Ward's tree over clusters, against scipy's over rows."""

import itertools

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from shoal.clustering.merging import merged_clusters, ward_merges
from shoal.errors import UserError
from shoal.evaluation import clustering_scores


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_of_equal_rows_merge_as_the_rows_do(metric, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(12, 5))
    labels = np.concatenate([np.arange(12), rng.integers(0, 12, 60)])
    rows = points[labels] * (rng.uniform(1, 3, (72, 1)) if metric == "cosine" else 1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) if metric == "cosine" else rows
    tree = linkage(unit, "ward")
    for k in (1, 2, 5, 11):
        into = merged_clusters(torch.from_numpy(rows), torch.from_numpy(labels), 12, k, metric)
        assert clustering_scores(fcluster(tree, k, "maxclust"), into[labels])["ari"] == pytest.approx(1)
        assert into.unique().tolist() == list(range(k))


def test_fewer_clusters_are_unions_of_more():
    rng = np.random.default_rng(0)
    rows, labels = torch.from_numpy(rng.normal(size=(300, 4))), torch.from_numpy(rng.integers(-1, 30, 300))
    cuts = [merged_clusters(rows, labels, 30, k, "euclidean") for k in range(29, 0, -1)]
    for fine, coarse in itertools.pairwise(cuts):
        pairs = set(zip(fine.tolist(), coarse.tolist(), strict=True))
        assert len(pairs) == len(set(fine.tolist()))


def test_an_empty_cluster_goes_first():
    merges = ward_merges(np.array([[0.0], [5.0], [5.1]]), np.array([4.0, 0.0, 4.0]))
    assert 1 in merges[0]
    assert len(merges) == 2


@pytest.mark.parametrize("k", [0, 4, 5, -1])
def test_no_number_to_merge_to(k):
    with pytest.raises(UserError, match="fewer than the 4 clusters"):
        merged_clusters(torch.randn(8, 2), torch.arange(8) % 4, 4, k, "euclidean")
