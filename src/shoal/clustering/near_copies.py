"""The most alike of many rows, without comparing all with all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.kmeans.restarts import kmeans
from shoal.clustering.rows import squared_distances

N_NEIGHBOURS = 10

CELL = 1000
"""Rows that a cell holds on average."""

PROBED = 4
"""Cells in which the neighbours of a row are looked for. With no more cells than these, all rows are compared."""

_BLOCK = 4096  # rows compared with as many at once: 64 MB of cosines
_SAMPLED = 50  # rows for each cell that the cells are found on
_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each of the ``rows`` of a feature matrix its most alike others: their rows and cosines, most alike first.

    Where fewer were found, ``index`` is −1 and ``similarity`` −∞.
    """

    rows: Int64[Tensor, "m"]
    index: Int64[Tensor, "m j"]
    similarity: Float[Tensor, "m j"]


def neighbours(features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], seed: int = 0) -> Neighbours:
    """Find the ten most alike others of each of some rows, by cosine, among these rows.

    k-means on a sample cuts the rows into cells, and each is compared with the rows of the four cells nearest to it
    (an inverted file; Jégou, Douze and Schmid 2011, section IV). Up to 4 000 rows this is exact. Time grows with
    m · d · 4 000, memory with m. The features may be a memory map, of which rows are read a cell at a time.
    """
    j = min(N_NEIGHBOURS, max(len(rows) - 1, 0))
    index = torch.full((len(rows), j), -1)
    similarity = torch.full((len(rows), j), -torch.inf)
    if j:
        for queries, members in _cells(features, rows, seed):
            _compare(features, rows, queries, members, index, similarity)
    return Neighbours(rows, torch.where(index < 0, -1, rows[index.clamp(min=0)]), similarity)


def _cells(
    features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], seed: int
) -> Iterator[tuple[Int64[Tensor, "q"], Int64[Tensor, "c"]]]:
    """Of each cell, places among the rows: who looks there for neighbours, and who lies there."""
    n_cells = -(-len(rows) // CELL)
    if n_cells <= PROBED:
        everyone = torch.arange(len(rows))
        yield everyone, everyone
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(rows), generator=generator)[: _SAMPLED * n_cells].sort().values
    sample = _directions(features, rows[drawn])
    options = {"metric": "euclidean", "init": "random", "n_init": 1, "max_iter": 10}
    centers = kmeans(sample, n_cells, generator=generator, **options).centers  # type: ignore[arg-type]
    near = torch.empty(len(rows), PROBED, dtype=torch.int64)
    for start in range(0, len(rows), _CHUNK):
        x = _directions(features, rows[start : start + _CHUNK])
        near[start : start + _CHUNK] = squared_distances(x, centers).topk(PROBED, largest=False).indices
    looking, lying = _grouped(near.flatten(), n_cells), _grouped(near[:, 0], n_cells)
    for queries, members in zip(looking, lying, strict=True):
        yield queries // PROBED, members


def _grouped(cells: Int64[Tensor, "m"], n_cells: int) -> tuple[Tensor, ...]:
    sizes = torch.bincount(cells, minlength=n_cells).tolist()
    return torch.split(cells.argsort(stable=True), sizes)


def _compare(
    features: Float[Tensor, "n d"],
    rows: Int64[Tensor, "m"],
    queries: Int64[Tensor, "q"],
    members: Int64[Tensor, "c"],
    index: Int64[Tensor, "m j"],
    similarity: Float[Tensor, "m j"],
) -> None:
    """Put those members among the neighbours of each query that are more alike than what is there."""
    for some in torch.split(members, _BLOCK):
        y = _directions(features, rows[some])
        for asking in torch.split(queries, _BLOCK):
            cosines = _directions(features, rows[asking]) @ y.T
            cosines.masked_fill_(asking[:, None] == some, -torch.inf)
            best = cosines.topk(min(index.shape[1], len(some)))
            values = torch.cat([similarity[asking], best.values], 1)
            places = torch.cat([index[asking], some[best.indices]], 1)
            similarity[asking], kept = values.topk(index.shape[1])
            index[asking] = torch.where(similarity[asking] == -torch.inf, -1, places.gather(1, kept))


def _directions(features: Float[Tensor, "n d"], rows: Int64[Tensor, "b"]) -> Float[Tensor, "b d"]:
    return normalize(features[rows].float())
