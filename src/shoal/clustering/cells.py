"""An inverted file: rows in cells, and the nearest of each row among those of some cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize, pad

from shoal.clustering.grouping import grouped_rows
from shoal.clustering.kmeans.restarts import kmeans
from shoal.clustering.rows import LOCAL, Shards, squared_distances, subsample
from shoal.mapped import release, scratch

N_NEIGHBOURS = 10
CELL_ROWS = 1000
"""Mean number of rows in a cell of the inverted file."""

PROBES = 4
"""Cells that are searched for the neighbours of a row. With no more cells than these, the search is exact."""

FLAT_CELLS = 1024
"""Cells among which the nearest are looked for one by one; more are looked for by groups."""

GROUPS = 3
"""Groups of cells that are searched for the nearest cells of a row."""

MOST_ROWS = 16 * CELL_ROWS
"""Of a cell that are compared with each other."""

_BLOCK = 4096  # rows of a cell that others are compared with at once
_COSINES = 2**22  # values that comparing takes at once, 16 MB
_SAMPLED = 50  # rows per cell on which k-means finds the cells
_READ = 8192
_RELEASED = 32  # readings after which pages are released


@runtime_checkable
class Vectors(Protocol):
    """Rows of a matrix that are made when they are asked for."""

    def __getitem__(self, rows: Int64[Tensor, "b"], /) -> Float[Tensor, "b d"]:
        """Some of them."""

    def release(self) -> None:
        """Give back the pages that they were made of."""


def compares_all(n: int) -> bool:
    """Whether this many rows are all compared with each other."""
    return -(-n // CELL_ROWS) <= PROBES


class Cells:
    """Rows in cells, each of which is searched for the neighbours of the rows that it is near to."""

    def __init__(
        self, features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], seed: int, shards: Shards = LOCAL
    ) -> None:
        self.features, self.rows = features, rows
        self.own, self.shards = shards.part(len(rows)), shards
        n, j = self.own.stop - self.own.start, min(N_NEIGHBOURS, len(rows) - 1)
        n_cells = -(-len(rows) // CELL_ROWS)
        if compares_all(len(rows)):
            self.near = torch.zeros(n, 1, dtype=torch.int32)
            self.n_cells = 1
        else:
            generator = torch.Generator().manual_seed(seed)
            # What each rank computes for itself may differ in the last digit.
            tree = _Tree(*shards.tensors_of_first(lambda: _tree_of(features, rows, n_cells, generator)))
            self.n_cells = len(tree.centers)
            self.near = scratch((n, PROBES), torch.int32)
            for part in self._parts():
                self.near[part] = tree.nearest(_unit_rows(features, self._asked(part)).float(), PROBES).int()
        self.index = scratch((n, j), torch.int32)
        self.far = scratch((n, j), torch.float32)  # 1 − cosine, which keeps its digits near 0
        self.room = torch.empty(_COSINES)  # made once: what comes and goes would leave holes in the memory

    def run(self) -> Iterator[tuple[slice, Int64[Tensor, "b j"], Float64[Tensor, "b j"]]]:
        """Slices of the rows, places of their neighbours, −1 where there are no more, and their cosines."""
        for part in self._parts():
            self.index[part], self.far[part] = -1, torch.inf
        probing, starts = grouped_rows(self.near.flatten(), self.n_cells)
        members, places = grouped_rows(self.shards.gather(self.near[:, 0].contiguous()), self.n_cells)
        for cell in range(self.n_cells):
            queries = self.own.start + probing[starts[cell] : starts[cell + 1]] // self.near.shape[1]
            for asked, piece in _pieces(queries, members[places[cell] : places[cell + 1]]):
                self._merge(asked, piece)
            if cell % _RELEASED == 0:
                self._release(probing, members)
        for part in self._parts():
            there = slice(self.own.start + part.start, self.own.start + part.stop)
            yield there, self.index[part].long(), 1 - self.far[part].double()

    def _asked(self, part: slice) -> Int64[Tensor, "b"]:
        """Rows whose neighbours this rank looks for."""
        return self.rows[self.own.start + part.start : self.own.start + part.stop]

    def _parts(self) -> Iterator[slice]:
        return _slices(len(self.near), self._release)

    def _merge(self, queries: Int64[Tensor, "q"], members: Int64[Tensor, "c"]) -> None:
        """Merge the members into the neighbours that each query has so far."""
        for candidates in torch.split(members, _BLOCK):
            y = _unit_rows(self.features, self.rows[candidates])
            center = y.mean(0)  # about which differences of rows that are much alike keep their digits in float32
            y, y_lengths = _about(y, center)
            for block in torch.split(queries, max(1, len(self.room) // len(candidates))):
                x, x_lengths = _about(_unit_rows(self.features, self.rows[block]), center)
                room = self.room[: len(block) * len(candidates)].view(len(block), len(candidates))
                squared = torch.addmm(y_lengths, x, y.T, alpha=-2, out=room).add_(x_lengths[:, None])
                itself = torch.searchsorted(candidates, block).clamp(max=len(candidates) - 1)  # they ascend
                there = (candidates[itself] == block).nonzero()[:, 0]
                squared[there, itself[there]] = torch.inf
                best = squared.topk(min(self.far.shape[1], len(candidates)), largest=False)
                place = block - self.own.start
                values = torch.cat([self.far[place], best.values.clamp(min=0) / 2], 1)
                found = torch.cat([self.index[place].long(), candidates[best.indices]], 1)
                far, kept = values.topk(self.far.shape[1], largest=False)
                self.far[place] = far
                self.index[place] = torch.where(far == torch.inf, -1, found.gather(1, kept)).int()

    def _release(self, *more: Tensor) -> None:
        release(self.near, self.rows, *more)
        if hasattr(self, "index"):
            release(self.index, self.far)
        _release_rows(self.features)


def _pieces(
    queries: Int64[Tensor, "q"], members: Int64[Tensor, "c"]
) -> Iterator[tuple[Int64[Tensor, "_"], Int64[Tensor, "_"]]]:
    """The members of a cell, in pieces of no more than can be compared with each other, and whom each is for.

    A query that is a member is for its own piece. Of cells whose centres coincide, one has all members.
    """
    n_pieces = -(-len(members) // MOST_ROWS)
    if n_pieces == 0:
        return
    if n_pieces == 1:
        yield queries, members
        return
    place = torch.searchsorted(members, queries).clamp(max=len(members) - 1)
    inside = members[place] == queries
    piece = torch.where(inside, place * n_pieces // len(members), queries % n_pieces)
    of_member = torch.arange(len(members)) * n_pieces // len(members)
    for number in range(n_pieces):
        yield queries[piece == number], members[of_member == number]


@dataclass(frozen=True, eq=False)
class _Tree:
    """Centres of cells, group by group, where there are many."""

    centers: Float[Tensor, "c d"]
    groups: Float[Tensor, "g d"]
    places: Int64[Tensor, "_"]
    """Where the cells of each group begin, with the end of the last; none without groups."""

    def nearest(self, x: Float[Tensor, "b d"], n: int) -> Int64[Tensor, "b n"]:
        """The nearest cells of some rows, nearest first, or −1; beyond ``FLAT_CELLS`` those of the nearest groups."""
        if not len(self.places):
            flat = squared_distances(x, self.centers).topk(min(n, len(self.centers)), largest=False).indices
            return pad(flat, (0, n - flat.shape[1]), value=-1)
        near = squared_distances(x, self.groups).topk(min(GROUPS, len(self.groups)), largest=False).indices
        values = torch.full((len(x), GROUPS * n), torch.inf)
        cells = torch.full((len(x), GROUPS * n), -1)
        for group in torch.unique(near).tolist():
            row, slot = (near == group).nonzero(as_tuple=True)
            start, end = self.places[group : group + 2].tolist()
            m = min(n, end - start)
            if not m:
                continue
            best = squared_distances(x[row], self.centers[start:end]).topk(m, largest=False)
            columns = slot[:, None] * n + torch.arange(m)
            values[row[:, None], columns], cells[row[:, None], columns] = best.values, best.indices + start
        best = values.topk(n, largest=False)
        found: Tensor = cells.gather(1, best.indices)  # −1 where there are fewer
        return found


def _tree_of(
    features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], n_cells: int, generator: torch.Generator
) -> list[Tensor]:
    """What a tree of the cells of some rows is made of."""
    drawn = subsample(len(rows), _SAMPLED * n_cells, generator)
    if n_cells <= FLAT_CELLS:
        centers = _centers(features, rows[drawn], n_cells, generator)
        return [centers, centers, torch.zeros(0, dtype=torch.int64)]
    most = round(n_cells**0.5)
    some = drawn[subsample(len(drawn), _SAMPLED * most, generator)]
    groups = _centers(features, rows[some], most, generator)
    own = torch.empty(len(drawn), dtype=torch.int64)  # one array: many small ones would leave holes in the memory
    for part in _slices(len(drawn), partial(_release_rows, features)):
        own[part] = squared_distances(_unit_rows(features, rows[drawn[part]]).float(), groups).argmin(1)
    found, places = list[Tensor](), [0]
    for group in range(len(groups)):
        sample = drawn[own == group]
        if len(sample):
            n = max(1, round(n_cells * len(sample) / len(drawn)))
            found.append(_centers(features, rows[sample], n, generator))
        places.append(sum(map(len, found)))
    return [torch.cat(found), groups, torch.tensor(places)]


def _centers(
    features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "s"], n: int, generator: torch.Generator
) -> Float[Tensor, "c d"]:
    """Centres of cells by k-means on a sample of the rows; fewer where these are so alike that cells would be empty."""
    sample = torch.empty(len(rows), features[rows[:1]].shape[1])
    for part in _slices(len(rows), partial(_release_rows, features)):
        sample[part] = _unit_rows(features, rows[part])
    options = {"metric": "euclidean", "init": "random", "n_init": 1, "max_iter": 10}
    found = kmeans(sample, min(n, len(sample)), generator=generator, **options)  # type: ignore[arg-type]
    return found.centers[torch.unique(found.labels)]


def _slices(n: int, release_pages: Callable[[], None]) -> Iterator[slice]:
    """Parts of n rows to read, whose pages are released now and then."""
    for number, start in enumerate(range(0, n, _READ)):
        yield slice(start, min(start + _READ, n))
        if number % _RELEASED == 0:
            release_pages()


def _release_rows(features: Float[Tensor, "n d"] | Vectors) -> None:
    if isinstance(features, Tensor):
        release(features)
    else:
        features.release()


def _unit_rows(features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "b"]) -> Float64[Tensor, "b d"]:
    return normalize(features[rows].double())


def _about(
    unit: Float64[Tensor, "b d"], center: Float64[Tensor, "d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b"]]:
    """Rows about a point in float32, and their squared lengths; a zero row adds 1, so that its cosines are 0."""
    x = (unit - center).float()
    return x, x.square().sum(1) + (~unit.any(1)).float()


def nearest_of_all(
    features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], asked: Int64[Tensor, "q"], j: int
) -> Float[Tensor, "q j"]:
    """Cosines of some rows with the j nearest of all others, nearest first."""
    x = _unit_rows(features, asked)
    best = torch.full((len(asked), j), -torch.inf, dtype=torch.float64)
    for others in torch.split(rows, _READ):
        cosines = (x @ _unit_rows(features, others).T).masked_fill_(asked[:, None] == others, -torch.inf)
        best = torch.cat([best, cosines], 1).topk(j).values
    return best.float()
