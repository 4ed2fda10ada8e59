"""Clusters merged into fewer: Ward's tree over the clusters of a partition."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from shoal.clustering.centroids import group_sums
from shoal.clustering.rows import Metric, Rows
from shoal.errors import UserError


def merged_clusters(
    features: Tensor, labels: Int64[Tensor, "n"], n_clusters: int, merge_to: int, metric: Metric
) -> Int64[Tensor, "k"]:
    """Which of fewer clusters each cluster becomes, numbered in the order of their first clusters.

    Ward's criterion (Ward 1963) from the given partition on, exact for its rows: the two clusters are merged whose
    union adds least to the squared distances from the clusters' means, n_a·n_b / (n_a + n_b) · ‖m_a − m_b‖², until
    ``merge_to`` are left. Under the cosine, rows have unit length. So fewer clusters are always unions of more.

    Args:
        features: (n, d) that were clustered.
        labels: cluster of each row in [0, k); −1 for none.
        n_clusters: k.
        merge_to: number of clusters that are left.
        metric: of the clusters.

    Raises:
        UserError: ``merge_to`` is below 1, or not below k.
    """
    if not 1 <= merge_to < n_clusters:
        raise UserError(
            f"--merge-to {merge_to} must be from 1 to {n_clusters - 1}, fewer than the {n_clusters} clusters."
        )
    sums, sizes = group_sums(Rows(features, metric, dtype=torch.float64), labels, n_clusters)
    means = sums / sizes.clamp(min=1)[:, None]
    into = np.arange(n_clusters)
    for kept, gone in ward_merges(means.numpy(), sizes.double().numpy())[: n_clusters - merge_to]:
        into[into == gone] = kept
    return torch.from_numpy(np.unique(into, return_inverse=True)[1].astype(np.int64))


def ward_merges(means: Float64[np.ndarray, "k d"], sizes: Float64[np.ndarray, "k"]) -> list[tuple[int, int]]:
    """The k − 1 merges of Ward's tree, in their order: the first cluster of each takes in the second, higher one.

    Args:
        means: of the clusters.
        sizes: numbers of their rows; an empty cluster is merged first, at no cost.
    """
    means, sizes = means.copy(), sizes.copy()
    k = len(means)
    costs = np.stack([_costs(means, sizes, cluster) for cluster in range(k)])
    merges = []
    for _ in range(k - 1):
        kept, gone = sorted(divmod(int(costs.argmin()), k))
        total = max(sizes[kept] + sizes[gone], 1.0)
        means[kept] = (sizes[kept] * means[kept] + sizes[gone] * means[gone]) / total
        sizes[kept] += sizes[gone]
        merges.append((kept, gone))
        taken = ~np.isfinite(costs[kept])
        row = np.where(taken, np.inf, _costs(means, sizes, kept))
        costs[kept], costs[:, kept] = row, row
        costs[gone], costs[:, gone] = np.inf, np.inf
    return merges


def _costs(
    means: Float64[np.ndarray, "k d"], sizes: Float64[np.ndarray, "k"], cluster: int
) -> Float64[np.ndarray, "k"]:
    """What merging a cluster with each other adds; infinite for itself."""
    squared = ((means - means[cluster]) ** 2).sum(1)
    found: Float64[np.ndarray, "k"] = squared * (sizes * sizes[cluster] / np.maximum(sizes + sizes[cluster], 1.0))
    found[cluster] = np.inf
    return found
