"""k-means of features that are averaged with those of their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from tests.ranks import on_two_ranks

from shoal import distributed
from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.rows import LOCAL
from shoal.clustering.smoothing import smoothed, smoothed_kmeans
from shoal.errors import UserError
from shoal.evaluation import clustering_scores


def noisy(n: int, d: int, k: int) -> torch.Tensor:
    """Rows about k centres that lie around one common direction."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(k, d, generator=generator) + 2
    return centers[torch.arange(n) % k] + torch.randn(n, d, generator=generator)


def test_rows_are_averaged_as_a_double_loop_does_it():
    features = noisy(60, 5, 3)
    rows = F.normalize(features.double(), dim=1).numpy()
    near = [sorted((j for j in range(60) if j != i), key=lambda j: -rows[i] @ rows[j])[:10] for i in range(60)]
    for _ in range(3):
        totals = [rows[i] + sum(rows[j] for j in near[i]) for i in range(60)]
        rows = np.stack([total / np.linalg.norm(total) for total in totals])
    rows = rows - rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    torch.testing.assert_close(smoothed(features, 10, LOCAL).double(), torch.from_numpy(rows), atol=1e-5, rtol=0)


def test_digits_that_k_means_mixes_up():
    pixels, labels = load_digits(return_X_y=True)
    features = torch.from_numpy(pixels).float()
    plain = kmeans(features, 10, generator=torch.Generator().manual_seed(0)).labels
    found = smoothed_kmeans(features, 10, generator=torch.Generator().manual_seed(0), sharded=False).labels
    accuracy = [clustering_scores(labels, each)["acc"] for each in (plain, found)]
    assert accuracy[1] > accuracy[0] + 0.03, accuracy


def test_labels_are_the_nearest_centers_of_the_features_themselves():
    features = noisy(500, 16, 4)
    found = smoothed_kmeans(features, 4, generator=torch.Generator().manual_seed(0), sharded=False)
    labels, distances, _ = assign(features, found.centers, "cosine")
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.distances, distances)
    again = smoothed_kmeans(features, 4, generator=torch.Generator().manual_seed(0), sharded=False)
    assert torch.equal(again.labels, found.labels)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_few_rows(n):
    features = noisy(n, 4, 1)
    found = smoothed_kmeans(features, n, generator=torch.Generator().manual_seed(0), sharded=False)
    assert found.labels.shape == (n,)
    assert found.centers.isfinite().all()


@pytest.mark.parametrize(("n", "k"), [(4, 2), (12, 3), (30, 6)])
def test_small_clusters_are_not_mixed(n, k):
    labels = torch.arange(n) % k
    features = torch.eye(k)[labels] + 0.05 * torch.randn(n, k, generator=torch.Generator().manual_seed(0))
    found = smoothed_kmeans(features, k, generator=torch.Generator().manual_seed(0), sharded=False)
    assert adjusted_rand_score(labels, found.labels) == 1


def test_rows_that_are_all_alike():
    found = smoothed_kmeans(torch.ones(30, 4), 3, generator=torch.Generator().manual_seed(0), sharded=False)
    assert len(found.labels.unique()) == 1
    assert found.distances.abs().max() < 1e-6


def test_more_clusters_than_rows():
    with pytest.raises(UserError, match="n_samples=2"):
        smoothed_kmeans(torch.eye(2), 3, generator=torch.Generator(), sharded=False)


def labels_and_centers() -> tuple[list[int], list[list[float]]]:
    """A rank's labels, and the centres."""
    sharded = distributed.world_size() > 1
    found = smoothed_kmeans(noisy(501, 16, 4), 4, generator=torch.Generator().manual_seed(0), sharded=sharded)
    return found.labels.tolist(), found.centers.tolist()


def test_two_ranks_find_what_one_process_finds():
    (first, centers), (second, others) = on_two_ranks(labels_and_centers)
    labels, expected = labels_and_centers()
    assert adjusted_rand_score(first + second, labels) == 1
    torch.testing.assert_close(torch.tensor(centers), torch.tensor(others))
    for center in torch.tensor(expected):  # seeds are drawn per share, so that clusters may change places
        assert (torch.tensor(centers) - center).abs().amax(1).min() < 1e-5
