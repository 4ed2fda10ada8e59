"""Rows that repeat, or nearly, made one: bursts of photos, frames of a video, categories written as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.neighbours import nearest_neighbours

REACH = 15
"""Rank of the neighbour whose distance is the scale of a row's surroundings."""

CHANCE = 0.3
"""Rows that lie within the distance of a copy by chance."""

FEWEST = 30
"""With fewer places left, what looks like copies are groups of a few rows."""

NEAREST = 0.3
"""A copy is no farther than this share of the surroundings, however many dimensions there are."""


@dataclass(frozen=True, eq=False)
class Places:
    """Different rows and their nearest neighbours."""

    points: Float[Tensor, "m d"]
    index: Int64[Tensor, "m r"]
    distances: Float[Tensor, "m r"]

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def of(cls, points: Float[Tensor, "m d"]) -> Places:
        """The 30 nearest, or all others."""
        most = min(2 * REACH, len(points) - 1)
        if not most:
            return cls(points, torch.zeros(1, 0, dtype=torch.int64), points.new_zeros(1, 0))
        return cls(points, *nearest_neighbours(points, most, "euclidean"))


def distinct_places(points: Float[Tensor, "n d"]) -> Places:
    """One row for all that are equal but for rounding, and one for all that are copies of each other, nearly.

    A copy lies so near that by chance less than a third of a row would, at the density of the 15 rows around it; in
    many dimensions also within 0.3 of their distance. If no more rows than chance gives have one, or fewer than 30
    would be left, all are kept.
    """
    places = Places.of(points[_first_of_equal(points)])
    reach = min(REACH, (len(places) - 1) // 2)
    if reach < 2:
        return places
    surroundings = places.distances[:, reach - 1 : reach]
    growth = float((places.distances[:, 2 * reach - 1 : 2 * reach] / surroundings).double().log().median())
    dimension = math.log(2) / max(growth, 1e-3)
    share = min(NEAREST, (CHANCE / reach) ** (1 / dimension))
    near = places.distances[:, :reach] < share * surroundings
    if near.sum() <= (2 * reach * share**dimension + 0.2) * len(places):
        return places
    kept = _representatives(places.index[:, :reach], near)
    return places if len(kept) < FEWEST else Places.of(places.points[kept])


def _first_of_equal(points: Float[Tensor, "n d"]) -> Int64[Tensor, "m"]:
    """A row of each set of equal ones, found next to each other in the order of a random projection."""
    direction = torch.randn(points.shape[1], dtype=points.dtype, generator=torch.Generator().manual_seed(0))
    order = (points @ direction).argsort(stable=True)
    after, before = points[order[1:]], points[order[:-1]]
    rounding = 8 * torch.finfo(points.dtype).eps * torch.linalg.vector_norm(after, dim=1)
    new = torch.linalg.vector_norm(after - before, dim=1) > rounding
    return order[torch.cat([new.new_ones(1), new])].sort().values


def _representatives(index: Int64[Tensor, "n r"], near: Tensor) -> Int64[Tensor, "m"]:
    """Rows in order of how many copies they have; each takes those copies that are left."""
    taken, kept = [False] * len(index), []
    neighbours, copies = index.tolist(), near.tolist()
    for row in near.sum(1).argsort(descending=True, stable=True).tolist():
        if not taken[row]:
            kept.append(row)
            for other, is_copy in zip(neighbours[row], copies[row], strict=True):
                taken[other] |= is_copy
    return torch.tensor(kept).sort().values
