"""Which centre each row belongs to, with bounds that save distances, and the sums of the rows of each cluster."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.kmeans.nearest import nearest_two, rough_nearest, to_points
from shoal.clustering.rows import Rows, Shards

_READ = 2**20


class ClusterSums:
    """Weighted sum and weight of each cluster's rows.

    In float64, because thousands of rows come and go, and a GPU adds in any order.
    """

    def __init__(self, n_clusters: int, d: int, device: torch.device) -> None:
        self.sums = torch.zeros(n_clusters, d, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n_clusters, dtype=torch.float64, device=device)

    def move(
        self,
        x: Float[Tensor, "m d"],
        old: Int64[Tensor, "m"],
        new: Int64[Tensor, "m"],
        weights: Float[Tensor, "m"] | None,
    ) -> None:
        """Move rows from their old clusters, if they had one (-1: none), to the new ones."""
        x, ones = x.double(), torch.ones(len(x), dtype=torch.float64, device=x.device)
        weights = ones if weights is None else weights.double()
        if weights is not ones:
            x = x * weights[:, None]
        self.sums.index_add_(0, new, x)
        self.counts.index_add_(0, new, weights)
        had = old >= 0
        if not had.all():
            x, weights, old = x[had], weights[had], old[had]
        self.sums.index_add_(0, old, x, alpha=-1)
        self.counts.index_add_(0, old, weights, alpha=-1)


class Partition:
    """The cluster of each row, with an upper bound on the distance to its centre and a lower bound to all others.

    The bounds are Hamerly's (2010): when a centre moves, distances to it change by no more than the move. A row whose
    upper bound stays below its lower bound keeps its cluster, and its features need not be read.
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

        Only rows that move update the sums: after a few iterations few do.
        """
        n_moved = torch.zeros((), dtype=torch.int64, device=centers.device)
        for part in self.rows.parts(len(centers)):
            index = self._undecided(part, centers)
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

    def _undecided(self, part: slice, centers: Float[Tensor, "k d"]) -> Int64[Tensor, "m"] | None:
        """Rows of a chunk whose bounds do not decide their cluster; None if these are most."""
        index = (self.upper[part] >= self.lower[part]).nonzero()[:, 0]
        if 2 * len(index) > part.stop - part.start:
            return None
        if len(index):  # the bound is loose: the distance itself may decide
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
        """Nearest centre of rows of a chunk; the distances computed on the way tighten their bounds."""
        if rough:
            return rough_nearest(x, centers)
        squared = self.rows.squared_lengths[part]
        labels, first, second = nearest_two(x, centers, (squared if index is None else squared[index])[:, 0])
        _put(self.upper, part, index, first)
        _put(self.lower, part, index, second)
        return labels

    def some_rows(self, cluster: int, n: int) -> Float[Tensor, "m d"]:
        """Up to ``n`` rows of a cluster, evenly spaced in the order of all rows; the same on all ranks.

        If weights differ they are evenly spaced by weight, so that each stands for as much of it, and heavy rows come
        several times.
        """
        index = (self.labels == cluster).nonzero()[:, 0]
        if self._uneven:
            return self._some_weight(index, self.rows.each_weight[index], n)
        count = torch.tensor(len(index), device=index.device)
        step = -(-int(self.shards.sum(count)) // n)
        position = torch.arange(len(index), device=index.device) + self.shards.before(count)
        return self.shards.gather(self.rows[index[position % max(step, 1) == 0]])

    @cached_property
    def _uneven(self) -> bool:
        """Whether the rows of all ranks differ in weight."""
        weights = self.rows.weights
        if weights is None:
            return False
        ends = [weights.amin(), weights.amax()] if len(weights) else []
        every = self.shards.gather(torch.stack(ends) if ends else weights)
        return bool(every.amin() < every.amax())

    def _some_weight(self, index: Int64[Tensor, "m"], weights: Float[Tensor, "m"], n: int) -> Float[Tensor, "n d"]:
        edges = weights.cumsum(0, dtype=torch.float64)
        mine = edges[-1] if len(edges) else edges.sum()
        total, start = self.shards.sum(mine), self.shards.before(mine)
        places = (torch.arange(n, device=edges.device) + 0.5) * (total / n) - start
        places = places[(places >= 0) & (places < mine)]
        return self.shards.gather(self.rows[index[torch.searchsorted(edges, places, right=True)]])

    def move_bounds(self, centers: Float[Tensor, "k d"], before: Float[Tensor, "k d"]) -> None:
        """Loosen the bounds by as much as the centres have moved."""
        moves = torch.linalg.vector_norm(centers - before, dim=1)
        largest, second = torch.cat([moves, moves.new_zeros(1)]).topk(2).values
        # Its own centre's move does not bring another centre nearer to a row.
        others = torch.where(moves == largest, second, largest)
        for part in self._parts():
            self.upper[part] += moves[self.labels[part]]
            self.lower[part] -= others[self.labels[part]]

    def inertias(self, centers: Float[Tensor, "k d"]) -> Float64[Tensor, "k"]:
        """Σ‖x − c‖² of each cluster, from the sum S of its rows: Σ‖x‖² − 2 S·c + n ‖c‖²."""
        sums, counts = self.totals()
        centers = centers.double()
        squares, lengths = torch.zeros_like(counts), self.rows.squared_lengths[:, 0]
        for part in self._parts():
            squares.index_add_(0, self.labels[part], self.rows.weighted(lengths[part].double(), part))
        about_centers = ((counts[:, None] * centers - 2 * sums) * centers).sum(1)
        return (self.shards.sum(squares) + about_centers).clamp_(min=0)

    def _parts(self) -> Iterator[slice]:
        """Slices of the rows of which a number each is made."""
        return (slice(start, start + _READ) for start in range(0, len(self.labels), _READ))

    def totals(self) -> tuple[Float64[Tensor, "k d"], Float64[Tensor, "k"]]:
        """Sum and weight of each cluster's rows, over all ranks."""
        return self.shards.sum(self.sums.sums), self.shards.sum(self.sums.counts)


def _within(part: slice, index: Int64[Tensor, "m"]) -> Int64[Tensor, "m"]:
    """Rows of a chunk, counted from the first row of the data."""
    rows: Tensor = index + part.start
    return rows


def _put(target: Tensor, part: slice, index: Int64[Tensor, "m"] | None, values: Tensor) -> None:
    if index is None:
        target[part] = values
    else:
        target[part][index] = values
