"""Lloyd's iteration: nearest centre of each row, mean of each cluster, again; not looking where nothing can change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.kmeans.nearest import nearest_labels, nearest_two, rough_nearest, to_points
from shoal.clustering.kmeans.split_merge import split_merge
from shoal.clustering.kmeans.sums import ClusterSums
from shoal.clustering.rows import LOCAL, Rows, Shards, directions
from shoal.device import multiplies_bfloat16

SETTLED = 0.003
"""While more of the rows change cluster in an update, bfloat16 is exact enough to tell where."""

LARGE = 2**18
"""Distances in an update from which bfloat16 pays."""

SWAP_SHARE = 0.15
"""Swaps are looked for once no more of the rows change cluster: groups can be told apart by then."""

SWAPS = 5

STEP = 1.5
"""How far centres go towards their means, and beyond, until they settle; over-relaxed EM of Salakhutdinov and Roweis
(2003). It takes two thirds of the updates."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Where a run ended, in the coordinates of its ``Rows``."""

    centers: Float[Tensor, "k d"]
    labels: Int64[Tensor, "n"]
    """The nearest of the centres."""
    squared: Float[Tensor, "n"]
    """Squared distance to it."""
    inertia: float
    """Their sum, of all ranks' rows."""
    n_iter: int
    """How many times they were updated."""


def lloyd(
    rows: Rows,
    centers: Float[Tensor, "k d"],
    *,
    max_iter: int,
    tol: float,
    noise: float = 0.0,
    shards: Shards = LOCAL,
) -> Solution:
    """Iterate until no row changes cluster or the centres hardly move.

    Lloyd 1982; for the cosine, spherical k-means (Dhillon and Modha 2001). An empty cluster's centre moves to
    the row farthest from its own centre, so none is lost unless there are fewer distinct rows than clusters.

    Args:
        rows: the data, or this rank's share of it.
        centers: where to begin.
        max_iter: the most updates of the centres.
        tol: bound on the sum of the squared moves of the centres.
        noise: added to it, in units of the inertia: for a sample, how far its centres are from those of all rows.
        shards: whether the ranks hold shares.
    """
    partition = Partition(rows, len(centers), shards)
    return _converge(partition, centers, 0, max_iter, tol, noise)


def fast_lloyd(
    rows: Rows, centers: Float[Tensor, "k d"], *, max_iter: int, tol: float, rough: bool, shards: Shards = LOCAL
) -> Solution:
    """The same from a start that is nobody's choice, where another optimum is as good if it is no worse.

    Until the rows settle, ``rough`` distances are computed in bfloat16 where the hardware does, centres take longer
    steps, and centres that two groups share are swapped with centres that share a group. Then follow exact updates.
    """
    partition = Partition(rows, len(centers), shards)
    n_rows, swaps, n_iter = shards.total(len(rows)), SWAPS, 0
    large = n_rows * len(centers) > LARGE  # below, there is little to gain, and all hardware finds the same clusters
    rough = rough and large and rows.dtype == torch.float32 and multiplies_bfloat16(rows.features.device)
    for n_iter in range(1, max_iter):
        n_moved = partition.assign(centers, rough=rough)
        centers = partition.update(centers, STEP if n_iter > 1 else 1.0)
        if swaps and n_moved <= SWAP_SHARE * n_rows:
            better = split_merge(partition, centers)
            pays = not torch.equal(better, centers)
            swaps = swaps - 1 if pays else 0
            if pays:
                partition.follow(better, centers)
                centers = better
                continue
        if n_moved <= SETTLED * n_rows:
            break
    return _converge(partition, centers, n_iter, max_iter, tol, 0.0)


def _converge(
    partition: Partition, centers: Float[Tensor, "k d"], n_iter: int, max_iter: int, tol: float, noise: float
) -> Solution:
    """Exact updates after the first ``n_iter``."""
    while n_iter < max_iter:
        n_iter += 1
        n_moved = partition.assign(centers)
        before, centers = centers, partition.update(centers)
        bound = tol + noise * float(partition.inertias(centers).sum()) if noise else tol
        if n_moved == 0 or float((centers - before).square().sum()) <= bound:
            break
    partition.assign(centers)
    return _solution(partition.rows, centers, partition.labels, n_iter, partition.shards)


def found_at(rows: Rows, centers: Float[Tensor, "k d"], n_iter: int, shards: Shards) -> Solution:
    """The clusters of rows about centres that were found already, with ``n_iter`` updates."""
    return _solution(rows, centers, nearest_labels(rows, centers), n_iter, shards)


def _solution(
    rows: Rows, centers: Float[Tensor, "k d"], labels: Int64[Tensor, "n"], n_iter: int, shards: Shards
) -> Solution:
    squared = centers.new_empty(len(rows))
    for part, x in rows.chunks(1):
        squared[part] = to_points(x, centers[labels[part]]).square()
    inertia = shards.sum(rows.weighted(squared).sum(dtype=torch.float64))
    return Solution(centers, labels, squared, float(inertia), n_iter)


class Partition:
    """Which cluster each row is in, how far it is from its centre at most, and from all others at least.

    The bounds are Hamerly's (2010): when centres move, each distance changes by no more than its centre's move. A row
    whose upper bound stays below its lower bound keeps its cluster, and its features need not be read.
    """

    def __init__(self, rows: Rows, n_clusters: int, shards: Shards) -> None:
        device = rows.features.device
        self.rows, self.shards = rows, shards
        self.labels = torch.full((len(rows),), -1, device=device)
        self.upper = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=device)
        self.lower = torch.zeros_like(self.upper)
        self.sums = ClusterSums(n_clusters, rows.features.shape[1], device)

    def assign(self, centers: Float[Tensor, "k d"], *, rough: bool = False) -> int:
        """Move each row to the cluster of its nearest centre; returns how many moved, on all ranks.

        Only rows that move touch the sums: after a few iterations that is a small share of them.
        """
        n_moved = torch.zeros((), dtype=torch.int64, device=centers.device)
        for part in self.rows.parts(len(centers)):
            index = self._open(part, centers)
            if index is not None and not len(index):
                continue
            x = self.rows[part] if index is None else self.rows[_within(part, index)]
            labels = self._nearest(part, index, x, centers, rough)
            old = self.labels[part] if index is None else self.labels[part][index]
            changed = (labels != old).nonzero()[:, 0]
            if len(changed):
                weights = self.rows.weights_of(part)
                if weights is not None:
                    weights = (weights if index is None else weights[index])[changed]
                self.sums.move(x[changed], old[changed], labels[changed], weights)
                _put(self.labels, part, index, labels)
                n_moved += len(changed)
        return int(self.shards.sum(n_moved))

    def _open(self, part: slice, centers: Float[Tensor, "k d"]) -> Int64[Tensor, "m"] | None:
        """Rows of a chunk whose bounds do not say where they belong; None when these are most."""
        index = (self.upper[part] >= self.lower[part]).nonzero()[:, 0]
        if 2 * len(index) > part.stop - part.start:
            return None
        if len(index):  # a bound is loose, the distance itself may settle it
            exact = to_points(self.rows[_within(part, index)], centers[self.labels[part][index]])
            self.upper[part][index] = exact
            index = index[exact >= self.lower[part][index]]
        return index

    def _nearest(
        self,
        part: slice,
        index: Int64[Tensor, "m"] | None,
        x: Float[Tensor, "b d"],
        centers: Float[Tensor, "k d"],
        rough: bool,
    ) -> Int64[Tensor, "b"]:
        """Nearest centre of rows of a chunk; what was found out about distances becomes their bounds."""
        if rough:
            return rough_nearest(x, centers)
        squared = self.rows.squared_lengths[part]
        labels, first, second = nearest_two(x, centers, (squared if index is None else squared[index])[:, 0])
        _put(self.upper, part, index, first)
        _put(self.lower, part, index, second)
        return labels

    def update(self, centers: Float[Tensor, "k d"], step: float = 1.0) -> Float[Tensor, "k d"]:
        """The new centres, ``step`` times as far away as the means, for the cosine at unit length.

        An empty cluster's centre moves to a far row. The bounds hold for the new centres.
        """
        sums, counts = self.totals()
        empty = counts <= 1e-13 * counts.sum()  # weights that were added and taken away leave a trace
        means = sums / counts.where(~empty, 1.0)[:, None]
        if self.rows.metric == "cosine":
            means = directions(means, centers)
        if step != 1:
            means = centers + step * (means - centers)
            if self.rows.metric == "cosine":
                means = directions(means, centers)
        new = means.to(centers.dtype)
        if empty.any():
            new[empty] = self._farthest(centers, int(empty.sum()))
        self.follow(new, centers)
        return new

    def _farthest(self, centers: Float[Tensor, "k d"], n: int) -> Float[Tensor, "n d"]:
        """The rows farthest from their own centres, farthest first."""
        distances = self.upper.new_empty(len(self.rows))
        for part, x in self.rows.chunks(1):
            distances[part] = to_points(x, centers[self.labels[part]])
        far = distances.topk(min(n, len(distances))).indices
        distances, candidates = self.shards.gather(distances[far]), self.shards.gather(self.rows[far])
        order = distances.topk(min(n, len(distances))).indices
        return candidates[order[torch.arange(n, device=order.device) % len(order)]]

    def some_rows(self, cluster: int, n: int) -> Float[Tensor, "m d"]:
        """Up to ``n`` rows of a cluster, at equal distances in the order of all rows; the same on all ranks."""
        index = (self.labels == cluster).nonzero()[:, 0]
        count = torch.tensor(len(index), device=index.device)
        step = -(-int(self.shards.sum(count)) // n)
        position = torch.arange(len(index), device=index.device) + self.shards.before(count)
        return self.shards.gather(self.rows[index[position % max(step, 1) == 0]])

    def follow(self, centers: Float[Tensor, "k d"], before: Float[Tensor, "k d"]) -> None:
        """Let the bounds hold for centres that have moved."""
        moves = torch.linalg.vector_norm(centers - before, dim=1)
        largest, second = torch.cat([moves, moves.new_zeros(1)]).topk(2).values
        self.upper += moves[self.labels]
        # Its own centre's move does not bring another centre nearer to a row.
        self.lower -= torch.where(moves == largest, second, largest)[self.labels]

    def inertias(self, centers: Float[Tensor, "k d"]) -> Float64[Tensor, "k"]:
        """Σ‖x − c‖² of each cluster, from the sum S of its rows: Σ‖x‖² − 2 S·c + n ‖c‖²."""
        sums, counts = self.totals()
        centers = centers.double()
        lengths = self.rows.weighted(self.rows.squared_lengths[:, 0].double())
        squares = torch.zeros_like(counts).index_add_(0, self.labels, lengths)
        about_centers = ((counts[:, None] * centers - 2 * sums) * centers).sum(1)
        return (self.shards.sum(squares) + about_centers).clamp_(min=0)

    def totals(self) -> tuple[Float64[Tensor, "k d"], Float64[Tensor, "k"]]:
        """Sum and weight of each cluster's rows, over all ranks."""
        return self.shards.sum(self.sums.sums), self.shards.sum(self.sums.counts)


def _within(part: slice, index: Int64[Tensor, "m"]) -> Int64[Tensor, "m"]:
    """Row numbers in the data of rows of a chunk."""
    numbers: Tensor = index + part.start
    return numbers


def _put(target: Tensor, part: slice, index: Int64[Tensor, "m"] | None, values: Tensor) -> None:
    if index is None:
        target[part] = values
    else:
        target[part][index] = values
