"""k-means of features that are averaged with those of their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shoal.clustering.centroids import cluster_centers
from shoal.clustering.kmeans.restarts import assign, kmeans
from shoal.clustering.neighbours import neighbours_by_cell
from shoal.clustering.rows import Shards
from shoal.types import Clustering

ROUNDS = 3
"""Averages, one of the other."""

ROUNDING = 1e-3
"""Rows this near to the mean of all are not brought to unit length."""


def smoothed_kmeans(
    features: Float[Tensor, "n d"], n_clusters: int, *, generator: torch.Generator, n_init: int = 10, sharded: bool
) -> Clustering:
    """Clusters of ``smoothed`` features, as the directions of the features' own means, and the nearest of these.

    So new rows, which have no neighbours yet, are assigned as those are that were clustered.

    Args:
        features: all rows, on any device, also where ranks share the work.
        n_clusters: k.
        generator: draws the seeds of k-means; in the same state on all ranks.
        n_init: starts of k-means.
        sharded: whether ranks share the work; each gets the labels and distances of its ``part`` of the rows.

    Raises:
        UserError: fewer rows than clusters, NaN, infinity, a zero row.
    """
    shards = Shards(sharded)
    own = shards.part(len(features))
    rows = smoothed(features, len(features) // (2 * n_clusters), shards)[own]
    found = kmeans(rows, n_clusters, generator=generator, metric="euclidean", n_init=n_init, sharded=sharded)
    centers = cluster_centers(features[own], found.labels, n_clusters, "cosine", shards)
    labels, distances, _ = assign(features[own], centers, "cosine")
    return Clustering(labels, centers, distances)


def smoothed(features: Float[Tensor, "n d"], most: int, shards: Shards) -> Float[Tensor, "n d"]:
    """Rows averaged three times with their ten nearest by cosine, less the mean of all, at unit length, in float32.

    A low-pass filter on the graph of neighbours, x ← (x + Σ_j x_j) / ‖x + Σ_j x_j‖, as in adaptive graph convolution
    (Zhang, Liu, Li and Wu 2019, arXiv 1906.01210): what rows share with their neighbours stays, and what is their own
    cancels out. Neighbours are those that ``neighbours_by_cell`` finds, nearly all of the true ones.

    Args:
        features: on any device; of ranks that share the work, each gives all rows, and gets all.
        most: of the ten, so many are taken at most: in small clusters ten reach into others.
        shards: whether ranks share the work.
    """
    rows = F.normalize(features.detach().float(), dim=1)
    own = shards.part(len(rows))
    every, host = torch.arange(len(rows)), rows.cpu()
    blocks = [block.index for block in neighbours_by_cell(host, every, shards=shards)]
    near = torch.cat(blocks) if blocks else every[own, None]
    near = torch.where(near < 0, every[own, None], near).to(rows.device)
    for _ in range(ROUNDS):
        total = rows[own].clone()
        for column in near[:, :most].T:
            total += rows[column]
        rows = shards.gather(F.normalize(total, dim=1))
    # Rounding is no direction: where all rows are alike they stay so.
    return F.normalize(rows - rows.mean(0), dim=1, eps=ROUNDING)
