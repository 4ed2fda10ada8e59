"""Lloyd's iteration, several restarts at once: nearest centre of each row, mean of each cluster, again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.rows import Rows, squared_distances


@dataclass(frozen=True, eq=False)
class Solution:
    """Where a restart ended: centres in the coordinates of its ``Rows``, after how many updates of them."""

    centers: Float[Tensor, "k d"]
    inertia: float
    """Sum of squared distances to the centres before the last update."""
    n_iter: int


class _Partition:
    """Which cluster each row is in, for each restart, and what the means need to know of the clusters."""

    def __init__(self, rows: Rows, restarts: int, n_clusters: int) -> None:
        device, d = rows.features.device, rows.features.shape[1]
        self.labels = torch.full((len(rows), restarts), -1, device=device)
        self.nearest = torch.empty(len(rows), restarts, dtype=rows.dtype, device=device)
        # In float64 thousands of rows come and go without a trace, and the order in which a GPU adds does not
        # show. Cluster 0 is that of the rows labelled -1.
        self.sums = torch.zeros(restarts, n_clusters + 1, d, dtype=torch.float64, device=device)
        self.counts = torch.zeros(restarts, n_clusters + 1, dtype=torch.int64, device=device)

    def keep(self, restarts: Tensor) -> None:
        """Drop the other restarts."""
        self.labels, self.nearest = self.labels[:, restarts], self.nearest[:, restarts]
        self.sums, self.counts = self.sums[restarts], self.counts[restarts]

    def assign(self, rows: Rows, centers: Float[Tensor, "r k d"]) -> Int64[Tensor, "r"]:
        """Move each row to the cluster of its nearest centre; returns how many moved, for each restart.

        Only rows that move touch the sums: after a few iterations that is a small share of them.
        """
        restarts, k, _ = centers.shape
        n_moved = torch.zeros(restarts, dtype=torch.int64, device=centers.device)
        for part, x in rows.chunks(restarts * k):
            squared, labels = squared_distances(x, centers.flatten(0, 1)).view(-1, restarts, k).min(-1)
            self.nearest[part] = squared.add_(rows.squared_lengths[part]).clamp_(min=0)
            changed = labels != self.labels[part]
            n_moved += changed.sum(0)
            for restart in range(restarts):
                moved = changed[:, restart].nonzero()[:, 0]
                self._move(restart, x[moved], self.labels[part][moved, restart], labels[moved, restart])
            self.labels[part] = labels
        return n_moved

    def _move(self, restart: int, x: Float[Tensor, "m d"], old: Int64[Tensor, "m"], new: Int64[Tensor, "m"]) -> None:
        x, one = x.double(), torch.ones_like(old)
        self.sums[restart].index_add_(0, new + 1, x).index_add_(0, old + 1, x, alpha=-1)
        self.counts[restart].index_add_(0, new + 1, one).index_add_(0, old + 1, one, alpha=-1)

    def means(self, rows: Rows, centers: Float[Tensor, "r k d"]) -> Float[Tensor, "r k d"]:
        """The new centres: means, for the cosine at unit length; an empty cluster's moves to a far row."""
        counts = self.counts[:, 1:]
        means = self.sums[:, 1:] / counts.clamp(min=1)[..., None]
        if rows.metric == "cosine":
            means = _directions(means, centers)
        means = means.to(centers.dtype)
        for restart in (counts == 0).any(1).nonzero()[:, 0].tolist():
            empty = counts[restart] == 0
            means[restart, empty] = rows[self.nearest[:, restart].topk(int(empty.sum())).indices]
        return means


def _directions(means: Float64[Tensor, "r k d"], centers: Float[Tensor, "r k d"]) -> Float64[Tensor, "r k d"]:
    """Means at unit length; where directions cancel every centre is as good, and the old one stays."""
    length = torch.linalg.vector_norm(means, dim=-1, keepdim=True)
    return torch.where(length > 1e-6, means / length, centers.double())


def lloyd(rows: Rows, centers: Float[Tensor, "r k d"], max_iter: int, tol: float) -> Solution:
    """The best of the restarts, each run until no row changes cluster or its centres move less than ``tol``.

    Lloyd 1982; for the cosine, spherical k-means (Dhillon and Modha 2001). An empty cluster's centre moves to
    the row farthest from its own centre, so none is lost unless there are fewer distinct rows than clusters.
    A restart that has converged costs nothing more.

    Args:
        rows: the data.
        centers: where each restart begins.
        max_iter: the most updates of the centres.
        tol: bound on the sum of the squared moves of a restart's centres.
    """
    partition = _Partition(rows, *centers.shape[:2])
    best: Solution | None = None
    for n_iter in range(1, max_iter + 1):
        n_moved = partition.assign(rows, centers)
        moved, centers = centers, partition.means(rows, centers)
        shift = (centers - moved).square().sum((1, 2))
        done = (n_moved == 0) | (shift <= tol) | (n_iter == max_iter)
        if not done.any():
            continue
        for restart in done.nonzero()[:, 0].tolist():
            inertia = float(partition.nearest[:, restart].sum(dtype=torch.float64))
            if best is None or inertia < best.inertia:
                best = Solution(centers[restart], inertia, n_iter)
        if done.all():
            break
        partition.keep(~done)
        centers = centers[~done]
    assert best is not None
    return best
