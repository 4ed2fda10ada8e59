"""Centres of clusters and how sure a clustering is."""

import numpy as np
import pytest
import torch
from tests.clustering.refusing import by_every_metric, refused

from shoal.clustering import cluster_centers

X = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) + 1
LABELS = torch.arange(500) % 6 - 1


@by_every_metric
def test_centres_are_means_of_each_clusters_rows(metric):
    x = X.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    expected = np.stack([x[c == LABELS].mean(0) for c in range(5)])
    if metric == "cosine":
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(cluster_centers(X, LABELS, 5, metric), expected, atol=1e-6)


@by_every_metric
def test_an_empty_cluster_gets_the_centre_of_all(metric):
    found = cluster_centers(X, LABELS, 8, metric)
    torch.testing.assert_close(found[6], cluster_centers(X[LABELS >= 0], torch.zeros(416).long(), 1, metric)[0])
    torch.testing.assert_close(found[6], found[7])


def test_a_memory_map_is_read(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    torch.testing.assert_close(cluster_centers(mapped, LABELS, 5, "cosine"), cluster_centers(X, LABELS, 5, "cosine"))


@pytest.mark.usefixtures("without_type_checks")
def test_mistakes():
    refused(cluster_centers, X, LABELS, 4, "cosine", match=r"labels must be \(500,\) numbers from -1 to 3")
    refused(cluster_centers, X, LABELS[:5], 5, "cosine", match="one for each row")
    refused(cluster_centers, X, LABELS - 9, 5, "cosine", match="from -1")
    refused(cluster_centers, X, torch.full((500,), -1), 5, "cosine", match="no row has a cluster")
    refused(cluster_centers, torch.zeros(2, 3), torch.tensor([0, 1]), 2, "cosine", match="zero")
    refused(cluster_centers, torch.full((2, 3), torch.nan), torch.tensor([0, 1]), 2, "euclidean", match="NaN")
