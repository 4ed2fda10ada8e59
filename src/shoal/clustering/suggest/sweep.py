"""Scores of each number of clusters: silhouette, stability and coding length on halves of the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.contingency import adjusted_rand
from shoal.clustering.internal import silhouette
from shoal.clustering.kmeans.restarts import assign, kmeans
from shoal.clustering.umap import N_NEIGHBORS

N_ASKED = 1000


def coding_length(rows: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], distortion: float) -> float:
    """Bits per row to encode its cluster and its position up to a mean squared error ``distortion`` = ε².

    With m_i rows, mean μ_i (the mean of all rows being 0) and covariance Σ_i in cluster i, the n rows take

        Σ_i  (m_i + d)/2 · log₂ det(I + d/ε² · Σ_i)  +  d/2 · log₂(1 + ‖μ_i‖²/ε²)  −  m_i · log₂(m_i/n)

    bits: the rows of each cluster as those of a Gaussian, its mean, and the labels (Ma, Derksen, Hong and Wright,
    "Segmentation of Multivariate Mixed Data via Lossy Data Coding and Compression", IEEE PAMI 29(9), 2007). Splitting
    a Gaussian does not pay: its halves save less than the bit that says which half a row is in.
    """
    n, d = rows.shape
    rows = rows.double() - rows.mean(0, dtype=torch.float64)
    present, clusters, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    means = rows.new_zeros(len(present), d).index_add_(0, clusters, rows) / sizes[:, None]
    apart = rows - means[clusters]
    products = (apart[:, :, None] * apart[:, None]).flatten(1)
    covariances = rows.new_zeros(len(present), d * d).index_add_(0, clusters, products) / sizes[:, None]
    identity = torch.eye(d, dtype=torch.float64, device=rows.device)
    nats = (sizes + d) / 2 * torch.logdet(identity + d / distortion * covariances.view(-1, d, d))
    nats += d / 2 * torch.log1p(means.square().sum(1) / distortion)
    nats += sizes * torch.log(n / sizes)
    return float(nats.sum()) / math.log(2) / n


def neighbour_distance(rows: Float[Tensor, "n d"], rank: int) -> float:
    """Root mean square, over up to 1 000 rows, of the distance to the nearest row (rank 1), the second (2) and so on.

    Where so many rows are the same that it would be 0, it is a thousandth of the spread of all rows.
    """
    asked = rows[:: math.ceil(len(rows) / N_ASKED)]
    distances = torch.cdist(asked, rows, compute_mode="donot_use_mm_for_euclid_dist")
    reach = distances.kthvalue(1 + min(rank, len(rows) - 1), dim=1).values  # the first is the row itself
    spread = float(rows.double().var(0, correction=0).sum())
    return math.sqrt(max(float(reach.double().square().mean()), 1e-6 * spread))


N_SPLITS = 2
N_INIT = 3
N_SILHOUETTE = 1000


@dataclass(frozen=True, eq=False)
class _Half:
    """Half of the rows of an embedding, where k-means is run."""

    embedding: Float[Tensor, "n e"]
    index: Int64[Tensor, "h"]
    distortion: float
    together: float
    """Bits per row of the half as a single cluster."""
    seed: int


class Sweep:
    """Scores of each k on halves of the rows: each embedding is split in two at random, twice.

    ``scores[k]`` is (halves, 3), larger being better: silhouette, stability, and bits per row that clusters save.

    Args:
        embeddings: the same rows in the few dimensions where k-means is run.
        features: the same rows as they are, in few dimensions at most.
        generator: splits the rows and seeds k-means.
    """

    def __init__(
        self,
        embeddings: Sequence[Float[Tensor, "n _"]],
        features: Float[Tensor, "n d"],
        generator: torch.Generator,
    ) -> None:
        n = len(features)
        self.features = features
        # In many dimensions neighbours are nearly as far away as strangers: from their distance on, all is one cluster.
        self.distortion = (neighbour_distance(features, N_NEIGHBORS) / 2) ** 2
        self.together = coding_length(features, torch.zeros(n, dtype=torch.int64), self.distortion)
        self.halves: list[_Half] = []
        for embedding in embeddings:
            # A cluster of fewer than √n rows is none, so rows that near need not be told apart.
            distortion = neighbour_distance(embedding, math.isqrt(n)) ** 2
            for _ in range(N_SPLITS):
                order = torch.randperm(n, generator=generator)
                for index in (order[: n // 2], order[n // 2 :]):
                    bits = coding_length(embedding[index], torch.zeros_like(index), distortion)
                    seed = int(torch.randint(2**31, (), generator=generator))
                    self.halves.append(_Half(embedding, index, distortion, bits, seed))
        self.scores: dict[int, Float64[Tensor, "r 3"]] = {}
        self.saved: dict[int, float] = {}
        """Bits per row that clusters save in the features themselves; below 0, they cost."""

    def measure(self, ks: Iterable[int]) -> None:
        """Score each k that has no score yet."""
        for k in set(ks) - set(self.scores):
            labels = [_clusters(half, k) for half in self.halves]
            pairs = zip(self.halves, labels, strict=True)
            alone = torch.tensor([_scores(half, clusters[half.index]) for half, clusters in pairs])
            self.scores[k] = torch.column_stack([alone[:, 0], _stability(labels), alone[:, 1]]).double()
            self.saved[k] = self.together - coding_length(self.features, labels[0], self.distortion)


def _clusters(half: _Half, k: int) -> Int64[Tensor, "n"]:
    """Cluster of every row, by the centres that k-means finds in the half."""
    generator = torch.Generator().manual_seed(half.seed + k)
    found = kmeans(half.embedding[half.index], k, generator=generator, metric="euclidean", n_init=N_INIT)
    return assign(half.embedding, found.centers, "euclidean")[0]


def _scores(half: _Half, labels: Int64[Tensor, "h"]) -> tuple[float, float]:
    """Silhouette and bits saved, of the half's own rows."""
    rows = half.embedding[half.index]
    # The rows of a half are in random order.
    separation = silhouette(rows[:N_SILHOUETTE], labels[:N_SILHOUETTE], metric="euclidean")
    saved = half.together - coding_length(rows, labels, half.distortion)
    return (separation if math.isfinite(separation) else -1.0), saved


def _stability(labels: Sequence[Int64[Tensor, "n"]]) -> Float64[Tensor, "r"]:
    """Mean adjusted Rand index of each clustering with the others, over all rows."""
    total = torch.zeros(len(labels), dtype=torch.float64)
    for i, mine in enumerate(labels):
        for j, other in enumerate(labels[:i]):
            total[[i, j]] += adjusted_rand(mine, other)
    return total / (len(labels) - 1)
