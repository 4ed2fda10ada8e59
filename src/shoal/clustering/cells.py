"""An inverted file: rows in cells, and the nearest of each row among those of some cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.grouping import grouped_rows
from shoal.clustering.kmeans.restarts import kmeans
from shoal.clustering.rows import squared_distances
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

KEPT = 2**26
"""Bytes of rows that are kept for the next cells."""

_BLOCK = 4096  # rows compared with as many at once: 64 MB of cosines
_SAMPLED = 50  # rows per cell on which k-means finds the cells
_READ = 8192
_RELEASED = 32  # readings after which pages are released


@runtime_checkable
class Vectors(Protocol):
    """Rows of a matrix that are made when they are asked for."""

    def __getitem__(self, rows: Int64[Tensor, "b"], /) -> Float[Tensor, "b d"]:
        """Some of them."""


class Cells:
    """Rows in cells, each with the cells that are searched for its neighbours."""

    def __init__(self, features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], seed: int) -> None:
        self.features, self.rows = features, rows
        self.j = min(N_NEIGHBOURS, len(rows) - 1)
        n_cells = -(-len(rows) // CELL_ROWS)
        if n_cells <= PROBES:
            self.near = torch.zeros(len(rows), 1, dtype=torch.int32)
            n_cells = 1
        else:
            cells = _Tree.of(features, rows, n_cells, torch.Generator().manual_seed(seed))
            n_cells = len(cells.centers)
            self.near = scratch((len(rows), PROBES), torch.int32)
            for start in range(0, len(rows), _READ):
                x = _unit_rows(features, rows[start : start + _READ]).float()
                self.near[start : start + _READ] = cells.nearest(x, PROBES).int()
                if start // _READ % _RELEASED == 0:
                    self._release()
        self.order, self.places = grouped_rows(self.near[:, 0], n_cells)
        self.kept: OrderedDict[int, list[_Block]] = OrderedDict()
        self.room = KEPT

    def run(self) -> Iterator[tuple[Int64[Tensor, "q"], Int64[Tensor, "q j"], Float64[Tensor, "q j"]]]:
        """Places of the queries of a block, places of their neighbours, and their cosines."""
        for home in range(len(self.places) - 1):
            for number, queries in enumerate(self._pieces(home)):
                for block in torch.split(queries, _BLOCK):
                    yield block, *self._search(home, number, block)
            self._release()

    def _search(
        self, home: int, number: int, queries: Int64[Tensor, "q"]
    ) -> tuple[Int64[Tensor, "q j"], Float64[Tensor, "q j"]]:
        unit, probes = _unit_rows(self.features, self.rows[queries]), self.near[queries]
        index = torch.full((len(queries), self.j), -1)
        similarity = torch.full((len(queries), self.j), -torch.inf, dtype=torch.float64)
        for cell in torch.unique(probes).tolist():
            asked = (probes == cell).any(1).nonzero()[:, 0]
            for members in self._members(cell, number if cell == home else home):
                x, lengths = _about(unit[asked], members.center)
                squared = torch.addmm(members.lengths, x, members.x.T, alpha=-2).add_(lengths[:, None])
                squared.masked_fill_(queries[asked, None] == members.places, torch.inf)
                best = squared.topk(min(self.j, len(members.places)), largest=False)
                values = torch.cat([similarity[asked], 1 - best.values.double().clamp(min=0) / 2], 1)
                found = torch.cat([index[asked], members.places[best.indices]], 1)
                similarity[asked], kept = values.topk(self.j)
                index[asked] = torch.where(similarity[asked] == -torch.inf, -1, found.gather(1, kept))
        return index, similarity

    def _pieces(self, cell: int) -> tuple[Int64[Tensor, "q"], ...]:
        """The rows of a cell, in pieces of no more than can be compared with each other."""
        rows = self.order[self.places[cell] : self.places[cell + 1]]
        n_pieces = -(-len(rows) // MOST_ROWS)
        return rows.tensor_split(n_pieces) if n_pieces else ()

    def _members(self, cell: int, number: int) -> list[_Block]:
        """A piece of a cell, in blocks that are kept for the queries to come."""
        pieces = self._pieces(cell)
        if not pieces:
            return []
        number %= len(pieces)
        key = cell if len(pieces) == 1 else -1 - cell - number * len(self.places)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        found = [_Block.of(self.features, self.rows, places) for places in torch.split(pieces[number], _BLOCK)]
        self.kept[key] = found
        self.room -= sum(each.x.nbytes for each in found)
        while self.room < 0 and len(self.kept) > 1:
            self.room += sum(each.x.nbytes for each in self.kept.popitem(last=False)[1])
        return found

    def _release(self) -> None:
        release(self.near, self.rows)
        if isinstance(self.features, Tensor):
            release(self.features)
        else:
            getattr(self.features, "release", lambda: None)()


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows that queries are compared with, about their mean: so rows that are much alike keep their digits."""

    places: Int64[Tensor, "c"]
    center: Float64[Tensor, "d"]
    x: Float[Tensor, "c d"]
    lengths: Float[Tensor, "c"]

    @classmethod
    def of(
        cls, features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], places: Int64[Tensor, "c"]
    ) -> _Block:
        unit = _unit_rows(features, rows[places])
        center = unit.mean(0)
        return cls(places.clone(), center, *_about(unit, center))


@dataclass(frozen=True, eq=False)
class _Tree:
    """Centres of cells, in the order of their groups."""

    centers: Float[Tensor, "c d"]
    groups: Float[Tensor, "g d"]
    places: Sequence[int]
    """Where the cells of each group begin, with the end of the last."""

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "n d"] | Vectors,
        rows: Int64[Tensor, "m"],
        n_cells: int,
        generator: torch.Generator,
    ) -> _Tree:
        """Cells of some rows; neighbouring ones have neighbouring numbers, for the sake of what is kept of them."""
        drawn = torch.randperm(len(rows), generator=generator)[: _SAMPLED * n_cells].sort().values
        if n_cells <= FLAT_CELLS:
            centers = _centers(_unit_rows(features, rows[drawn]).float(), n_cells, generator)
            n_groups = max(1, round(n_cells**0.5))
            groups = _centers(centers, n_groups, generator)
            order, places = grouped_rows(squared_distances(centers, groups).argmin(1), n_groups)
            return cls(centers[order], groups, places)
        n_groups = round(n_cells**0.5)
        some = drawn[torch.randperm(len(drawn), generator=generator)[: _SAMPLED * n_groups].sort().values]
        groups = _centers(_unit_rows(features, rows[some]).float(), n_groups, generator)
        own = torch.cat(
            [
                squared_distances(_unit_rows(features, rows[part]).float(), groups).argmin(1)
                for part in torch.split(drawn, _READ)
            ]
        )
        centers, places = [], [0]
        for group in range(n_groups):
            sample = drawn[own == group]
            if len(sample):
                n = max(1, round(n_cells * len(sample) / len(drawn)))
                centers.append(_centers(_unit_rows(features, rows[sample]).float(), n, generator))
            places.append(sum(map(len, centers)))
        return cls(torch.cat(centers), groups, places)

    def nearest(self, x: Float[Tensor, "b d"], n: int) -> Int64[Tensor, "b n"]:
        """The nearest cells of some rows, nearest first; beyond ``FLAT_CELLS`` those of the nearest groups."""
        if len(self.centers) <= FLAT_CELLS:
            return squared_distances(x, self.centers).topk(n, largest=False).indices
        near = squared_distances(x, self.groups).topk(GROUPS, largest=False).indices
        values = torch.full((len(x), GROUPS * n), torch.inf)
        cells = torch.full((len(x), GROUPS * n), -1)
        for group in torch.unique(near).tolist():
            row, slot = (near == group).nonzero(as_tuple=True)
            start, end = self.places[group], self.places[group + 1]
            m = min(n, end - start)
            if not m:
                continue
            best = squared_distances(x[row], self.centers[start:end]).topk(m, largest=False)
            columns = slot[:, None] * n + torch.arange(m)
            values[row[:, None], columns], cells[row[:, None], columns] = best.values, best.indices + start
        best = values.topk(n, largest=False)
        found: Tensor = cells.gather(1, best.indices)
        return torch.where(found < 0, found[:, :1], found)


def _centers(sample: Float[Tensor, "s d"], n: int, generator: torch.Generator) -> Float[Tensor, "c d"]:
    options = {"metric": "euclidean", "init": "random", "n_init": 1, "max_iter": 10}
    return kmeans(sample, min(n, len(sample)), generator=generator, **options).centers  # type: ignore[arg-type]


def _unit_rows(features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "b"]) -> Float64[Tensor, "b d"]:
    return normalize(features[rows].double())


def _about(
    unit: Float64[Tensor, "b d"], center: Float64[Tensor, "d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b"]]:
    """Rows about a point in float32, and their squared lengths; a zero row adds 1, so that its cosines are 0."""
    x = (unit - center).float()
    return x, x.square().sum(1) + (~unit.any(1)).float()
