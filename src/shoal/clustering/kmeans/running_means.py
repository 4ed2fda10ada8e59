"""The state of mini-batch k-means: the mean of the rows assigned to each centre so far."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.kmeans.nearest import nearest_two
from shoal.clustering.kmeans.partition import ClusterSums
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, directions, draw_rows, invalid_features_error

ROWS_UNTIL_REASSIGNED = 10
"""Rows per centre after which centres with too few rows are reassigned."""


class RunningMeans:
    """Centres that move towards the rows of each batch that are nearest to them (Sculley 2010, algorithm 1).

    The learning rate of a centre is one over the number of its rows, so that it is their mean; for the cosine the
    direction of their mean.
    """

    def __init__(self, start: Float[Tensor, "k d"], metric: Metric, shift: Float[Tensor, "d"]) -> None:
        """Start from centres in the coordinates of ``Rows`` minus ``shift``."""
        self.metric = metric
        self.shift = shift
        self.dtype = start.dtype
        # In float32 a centre with millions of rows would no longer move.
        self.means: Float64[Tensor, "k d"] = start.to(torch.float64, copy=True)
        self.counts = self.means.new_zeros(len(start))
        self.centers: Float[Tensor, "k d"] = start
        self._n_since = 0

    def rows(self, features: Float[Tensor, "b d"], weights: Float[Tensor, "b"] | None = None) -> Rows:
        """Rows in the coordinates of the centres."""
        return Rows(features, self.metric, self.shift, weights=weights)

    def step(self, rows: Rows, ratio: float, generator: torch.Generator, shards: Shards = LOCAL) -> float:
        """Assign a batch to its nearest centres and move them; returns the sum of squared distances before.

        As in scikit-learn, after enough rows for all centres, those with less than ``ratio`` of the rows of the
        largest, such as empty ones, move to rows of the batch, of which each rank may hold a share.

        Raises:
            UserError: NaN, infinity or, under the cosine, a zero row.
        """
        self._n_since += shards.total(len(rows))
        due = self._n_since >= ROWS_UNTIL_REASSIGNED * len(self.counts) or bool((self.counts == 0).any())
        centers = self.centers.to(rows.dtype)
        sums = ClusterSums(len(centers), centers.shape[1], centers.device)
        inertia = 0.0
        for part, x in rows.chunks(len(centers)):
            labels, distances = nearest(rows, x, centers)
            weights = rows.weights_of(part)
            sums.move(x, torch.full_like(labels, -1), labels, weights)
            inertia += float(distances.square().sum() if weights is None else distances.square() @ weights)
        sums.sums, sums.counts = shards.sum(sums.sums), shards.sum(sums.counts)
        self.counts += sums.counts
        given = self.counts.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
        self.means += (sums.sums - sums.counts[:, None] * self.means) / given
        if due:
            self._n_since = 0
            self._relocate_empty_clusters(rows, ratio, generator, shards)
        self.centers = self._at_means()
        return float(shards.sum(torch.tensor(inertia, dtype=torch.float64)))

    def _relocate_empty_clusters(self, rows: Rows, ratio: float, generator: torch.Generator, shards: Shards) -> None:
        """Move centres with no or too few rows to rows of the batch, at most half of which become centres."""
        low = (self.counts < ratio * self.counts.max()).nonzero()[:, 0]
        if not len(low):
            return
        n = shards.total(len(rows))
        low = low[self.counts[low].argsort(stable=True)][: n // 2]
        if rows.weights is None:
            drawn = draw_rows(n, len(low), generator)
        else:
            low = low[: int((rows.weights > 0).sum())]
            if not len(low):
                return
            drawn = rows.weights.double().cpu().multinomial(len(low), generator=generator)
        drawn = drawn.to(low.device)
        self.means[low] = rows_of_ranks(rows, drawn, shards).double()
        # With a count of zero they would be moved again at once.
        others = torch.ones_like(self.counts, dtype=torch.bool)
        others[low] = False
        self.counts[low] = self.counts[others].min()

    def _at_means(self) -> Float[Tensor, "k d"]:
        if self.metric == "euclidean":
            return self.means.to(self.dtype, copy=True)  # the means will change in place
        return directions(self.means, self.centers).to(self.dtype)


def nearest(
    rows: Rows, x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"]
) -> tuple[Int64[Tensor, "b"], Float[Tensor, "b"]]:
    """Nearest centre of some rows, and its distance.

    Raises:
        UserError: NaN, infinity or, under the cosine, a zero row.
    """
    squared = torch.linalg.vector_norm(x, dim=1).square()
    if not torch.isfinite(4 * squared.sum()):  # (‖x‖ + ‖c‖)² overflows no sooner
        raise invalid_features_error(rows.features)
    labels, distances, _ = nearest_two(x, centers, squared)
    return labels, distances


def rows_of_ranks(rows: Rows, drawn: Int64[Tensor, "m"], shards: Shards) -> Float[Tensor, "m d"]:
    """Some of the rows of all ranks, by their numbers in rank order."""
    if not shards.cut:
        return rows[drawn]
    order, start = drawn.argsort(), int(shards.before(torch.tensor(len(rows))))
    own = drawn[order] - start
    found = shards.gather(rows[own[(own >= 0) & (own < len(rows))]])
    return found[order.argsort()]
