"""Nearest neighbours: exact, or of very many rows by an inverted file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.kmeans.restarts import kmeans
from shoal.clustering.parameters import check_counts
from shoal.clustering.rows import Metric, Rows, invalid_features_error, squared_distances
from shoal.errors import UserError

CHUNK = 2**22
"""Values that the exact search holds at a time, beside the rows and the answer."""

N_NEIGHBOURS = 10
CELL_ROWS = 1000
"""Mean number of rows in a cell of the inverted file."""

PROBES = 4
"""Cells that are searched for the neighbours of a row. With no more cells than these, the search is exact."""

_BLOCK = 4096  # rows compared with as many at once: 64 MB of cosines
_SAMPLED = 50  # rows per cell on which k-means finds the cells
_READ = 8192


def nearest_neighbours(
    features: Float[Tensor, "n d"], k: int, metric: Metric, queries: Float[Tensor, "m d"] | None = None
) -> tuple[Int64[Tensor, "m k"], Float[Tensor, "m k"]]:
    """The k nearest rows, nearest first: their indices and distances, ‖x − y‖ or 1 − cos, in float32.

    Exact: products find the nearest, differences give their distances. All pairs are compared, a chunk at a time,
    which is feasible for about 100 000 rows.

    Args:
        features: the rows to search, on any device.
        k: how many to find: less than n without queries, at most n with.
        metric: of the distances.
        queries: the rows whose neighbours are wanted, read in chunks; by default ``features`` themselves, where a row
            is not its own neighbour.

    Raises:
        UserError: k out of range; queries of another width; NaN, infinity, zero rows under the cosine, squares that
            overflow in float32.
    """
    others = Rows(features, metric)
    asked = others if queries is None else Rows(queries.to(features.device), metric)
    most = len(others) - (queries is None)
    check_counts(k=k)
    if k > most:
        raise UserError(f"k={k} exceeds the number of neighbours: give at most {most}.")
    if asked.features.shape[1] != features.shape[1]:
        raise UserError(f"queries have {asked.features.shape[1]} columns: give {features.shape[1]}, like the features.")
    points = others[:].float()
    mean = points.mean(0)  # ‖x‖² − 2x·y + ‖y‖² cancels far from the origin
    points = points - mean
    lengths = points.square().sum(1)
    if not torch.isfinite(4 * lengths.max()):
        raise invalid_features_error(others.features)
    index = torch.empty(len(asked), k, dtype=torch.int64, device=features.device)
    squared = torch.empty(len(asked), k, device=features.device)
    step = max(1, CHUNK // max(len(points), k * points.shape[1]))
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        x = points[part] if queries is None else asked[part].float() - mean
        if not torch.isfinite(x.square().sum()):
            raise invalid_features_error(asked.features)
        own = torch.arange(len(points), device=x.device)[part] if queries is None else None
        index[part], squared[part] = _nearest(x, points, lengths, k, own)
    return index, others.distance(squared)


def _nearest(
    x: Float[Tensor, "b d"], points: Float[Tensor, "n d"], lengths: Float[Tensor, "n"], k: int, own: Tensor | None
) -> tuple[Int64[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Indices and squared distances of the nearest points, ``own`` being the index of each row itself."""
    values = torch.addmm(lengths, x, points.T, alpha=-2)
    if own is not None:
        values.scatter_(1, own[:, None], torch.inf)
    near = values.topk(k, largest=False).indices
    apart = (x[:, None] - points[near]).square().sum(2)
    order = apart.argsort(dim=1, stable=True)
    return near.gather(1, order), apart.gather(1, order)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most similar others of each of some ``rows`` of a feature matrix, most similar first.

    ``index`` are rows of the matrix, ``similarity`` their cosines. Where fewer were found, they are −1 and −∞.
    """

    rows: Int64[Tensor, "m"]
    index: Int64[Tensor, "m j"]
    similarity: Float[Tensor, "m j"]


def approximate_neighbours(features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], seed: int = 0) -> Neighbours:
    """The ten nearest by cosine of each of some rows, among these rows, by an inverted file.

    k-means on a sample partitions the rows into cells, and each row is compared with those of its four nearest cells
    (Jégou, Douze and Schmid 2011, section IV). Up to 4 000 rows this is exact. Time is O(4 000 · m · d), memory O(m).
    The features may be a memory map, of which rows are read a cell at a time.
    """
    j = min(N_NEIGHBOURS, max(len(rows) - 1, 0))
    index = torch.full((len(rows), j), -1)
    similarity = torch.full((len(rows), j), -torch.inf)
    if j:
        for queries, members in _cells(features, rows, seed):
            _merge_members(features, rows, queries, members, index, similarity)
    return Neighbours(rows, torch.where(index < 0, -1, rows[index.clamp(min=0)]), similarity)


def _cells(
    features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], seed: int
) -> Iterator[tuple[Int64[Tensor, "q"], Int64[Tensor, "c"]]]:
    """The queries and the members of each cell, as positions in ``rows``."""
    n_cells = -(-len(rows) // CELL_ROWS)
    if n_cells <= PROBES:
        everything = torch.arange(len(rows))
        yield everything, everything
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(rows), generator=generator)[: _SAMPLED * n_cells].sort().values
    sample = _unit_rows(features, rows[drawn])
    options = {"metric": "euclidean", "init": "random", "n_init": 1, "max_iter": 10}
    centers = kmeans(sample, n_cells, generator=generator, **options).centers  # type: ignore[arg-type]
    near = torch.empty(len(rows), PROBES, dtype=torch.int64)
    for start in range(0, len(rows), _READ):
        x = _unit_rows(features, rows[start : start + _READ])
        near[start : start + _READ] = squared_distances(x, centers).topk(PROBES, largest=False).indices
    probing, lists = _positions_by_cell(near.flatten(), n_cells), _positions_by_cell(near[:, 0], n_cells)
    for queries, members in zip(probing, lists, strict=True):
        yield queries // PROBES, members


def _positions_by_cell(cells: Int64[Tensor, "m"], n_cells: int) -> tuple[Tensor, ...]:
    sizes = torch.bincount(cells, minlength=n_cells).tolist()
    return torch.split(cells.argsort(stable=True), sizes)


def _merge_members(
    features: Float[Tensor, "n d"],
    rows: Int64[Tensor, "m"],
    queries: Int64[Tensor, "q"],
    members: Int64[Tensor, "c"],
    index: Int64[Tensor, "m j"],
    similarity: Float[Tensor, "m j"],
) -> None:
    """Merge the members into the neighbours that each query has so far."""
    for candidates in torch.split(members, _BLOCK):
        y = _unit_rows(features, rows[candidates])
        for block in torch.split(queries, _BLOCK):
            cosines = _unit_rows(features, rows[block]) @ y.T
            cosines.masked_fill_(block[:, None] == candidates, -torch.inf)
            best = cosines.topk(min(index.shape[1], len(candidates)))
            values = torch.cat([similarity[block], best.values], 1)
            found = torch.cat([index[block], candidates[best.indices]], 1)
            similarity[block], kept = values.topk(index.shape[1])
            index[block] = torch.where(similarity[block] == -torch.inf, -1, found.gather(1, kept))


def _unit_rows(features: Float[Tensor, "n d"], rows: Int64[Tensor, "b"]) -> Float[Tensor, "b d"]:
    return normalize(features[rows].float())
