"""Nearest neighbours: exact, or of very many rows by an inverted file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.inputs import ArrayOrTensor, as_input_type, features_from
from shoal.clustering.kmeans.restarts import kmeans
from shoal.clustering.parameters import check_counts
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, invalid_features_error, squared_distances
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
_ASKED = 200  # rows whose neighbours are looked for among all
_ROUNDING = 1e-6  # of cosines


SPARE = 4
"""Candidates beside the k, whose true distances are computed as well."""

TIED = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Relative difference of squared distances, by precision, that is taken for none."""

_CENTRED_ON = 1024  # rows whose median the coordinates are taken about


def nearest_neighbours(
    features: ArrayOrTensor, k: int, metric: Metric, queries: ArrayOrTensor | None = None
) -> tuple[ArrayOrTensor, ArrayOrTensor]:
    """The k nearest rows, nearest first: their indices and distances, ‖x − y‖ or 1 − cos, (m, k).

    Exact for the numbers as they are given: products in float32 find candidates, differences give their true
    distances, and a bound on the rounding of products says whether any other row could be nearer. Rows for which it
    could, as where groups are far apart and narrow, are searched by products in float64, and if that is too coarse as
    well, by the differences from all rows. All pairs are compared, a chunk at a time, which is feasible for about
    100 000 rows.

    Args:
        features: the rows (n, d) to search, an array or a tensor on any device.
        k: how many to find: less than n without queries, at most n with.
        metric: of the distances.
        queries: the rows (m, d) whose neighbours are wanted, read in chunks; by default ``features`` themselves, where
            a row is not its own neighbour.

    Returns:
        int64 indices, and distances in the features' precision, float32 at least; arrays for arrays.

    Raises:
        UserError: k out of range; queries of another width; NaN, infinity, zero rows under the cosine, distances whose
            squares overflow.
    """
    search = _Search(features_from(features), metric, None if queries is None else features_from(queries), k)
    index, distances = search.run()
    return as_input_type(features, index), as_input_type(features, distances)


class _Search:
    """The k nearest of some rows for each row that is asked for."""

    def __init__(
        self, features: Float[Tensor, "n d"], metric: Metric, queries: Float[Tensor, "m d"] | None, k: int
    ) -> None:
        both = features.dtype if queries is None else torch.promote_types(features.dtype, queries.dtype)
        self.precision = torch.promote_types(both, torch.float32)
        # Directions that are nearly the same differ in digits that float32 does not have.
        dtype = torch.float64 if metric == "cosine" else self.precision
        self.others = Rows(features, metric, dtype=dtype)
        self.asked = self.others if queries is None else Rows(queries.to(features.device), metric, dtype=dtype)
        self.among_themselves = queries is None
        self.most = len(self.others) - self.among_themselves
        check_counts(k=k)
        if k > self.most:
            raise UserError(f"k={k} exceeds the number of neighbours: give at most {self.most}.")
        d = features.shape[1]
        if self.asked.features.shape[1] != d:
            raise UserError(f"queries have {self.asked.features.shape[1]} columns: give {d}, like the features.")
        self.k, self.n_candidates = k, min(k + SPARE, self.most)
        # ‖x‖² − 2x·y + ‖y‖² cancels far from the origin; a mean would follow a single far row.
        self.center = self.others[:: -(-len(self.others) // _CENTRED_ON)].median(0).values
        self.index = torch.empty(len(self.asked), k, dtype=torch.int64, device=features.device)
        self.squared = torch.empty(len(self.asked), k, dtype=dtype, device=features.device)

    def run(self) -> tuple[Int64[Tensor, "m k"], Float[Tensor, "m k"]]:
        """Indices and distances."""
        unsure = torch.arange(len(self.asked), device=self.index.device)
        for dtype in (torch.float32, torch.float64):
            if len(unsure):
                unsure = self._by_products(unsure, dtype)
        if len(unsure):
            self._by_differences(unsure)
        if not torch.isfinite(self.squared).all():
            raise invalid_features_error(self.others.features)
        return self.index, self.others.distance(self.squared).to(self.precision)

    def _by_products(self, rows: Int64[Tensor, "u"], dtype: torch.dtype) -> Int64[Tensor, "_"]:
        """Search for the neighbours of some rows; returns those that may have nearer ones than were found."""
        points = self._centred(dtype)
        lengths = points.square().sum(1)
        # The error of a product is a random walk of roundings (Higham and Mary 2019); 4 deviations, and the centring.
        slack = (4 * points.shape[1] ** 0.5 + 4) * torch.finfo(dtype).eps
        unsure = []
        step = max(1, CHUNK // max(len(points), self.n_candidates * points.shape[1]))
        for part in torch.split(rows, step):
            x = (self.asked[part] - self.center).to(dtype)
            # Lower bounds of the squared distances, less a number for each row.
            bounds = torch.addmm(lengths * (1 - slack), x, points.T, alpha=-2)
            if self.among_themselves:
                bounds.scatter_(1, part[:, None], torch.inf)
            least, near = bounds.topk(self.n_candidates, largest=False)
            apart = self._apart(part, x, points, near, lengths)
            order = apart.argsort(dim=1, stable=True)[:, : self.k]
            self.index[part], self.squared[part] = near.gather(1, order), apart.gather(1, order)
            farthest, others = self.squared[part, -1], least[:, -1] + x.square().sum(1) * (1 - slack)
            sure = (farthest * (1 - TIED[self.precision]) <= others) & torch.isfinite(others) | (farthest == 0)
            unsure.append(part[~sure] if self.n_candidates < self.most else part[:0])
        return torch.cat(unsure)

    def _apart(
        self,
        part: Int64[Tensor, "b"],
        x: Float[Tensor, "b d"],
        points: Float[Tensor, "n d"],
        near: Int64[Tensor, "b c"],
        lengths: Float[Tensor, "n"],
    ) -> Float[Tensor, "b c"]:
        """Squared distances from some rows to candidates, by differences."""
        if self.precision == torch.float64:
            return _lengths(self.asked[part][:, None] - self.others[near])
        apart = _lengths(x[:, None] - points[near]).to(self.squared.dtype)
        # The coordinates are rounded in proportion to their lengths, which differences so small cannot bear.
        coarse = (64 * apart < x.square().sum(1, keepdim=True) + lengths[near]).any(1).nonzero()[:, 0]
        if len(coarse):
            apart[coarse] = _lengths(self.asked[part[coarse]][:, None] - self.others[near[coarse]])
        return apart

    def _centred(self, dtype: torch.dtype) -> Float[Tensor, "n d"]:
        """The rows about a point in their midst.

        Raises:
            UserError: NaN, infinity, or a zero row under the cosine.
        """
        points = torch.empty(self.others.features.shape, dtype=dtype, device=self.center.device)
        for rows in [self.others] if self.among_themselves else [self.others, self.asked]:
            for part, x in rows.chunks(1):
                if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
                    raise invalid_features_error(rows.features)
                if rows is self.others:
                    points[part] = (x - self.center).to(dtype)
        return points

    def _by_differences(self, rows: Int64[Tensor, "u"]) -> None:
        """Compare some rows with all, at a hundred times the cost of products."""
        others = self.others[:]
        for part in torch.split(rows, max(1, CHUNK // len(others))):
            apart = torch.cdist(self.asked[part], others, compute_mode="donot_use_mm_for_euclid_dist").square()
            if self.among_themselves:
                apart.scatter_(1, part[:, None], torch.inf)
            self.squared[part], self.index[part] = apart.topk(self.k, largest=False)


def _lengths(x: Float[Tensor, "b c d"]) -> Float[Tensor, "b c"]:
    """‖x‖², read once."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=2).square_()
    return lengths


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most similar others of each of some ``rows`` of a feature matrix, most similar first.

    ``index`` are rows of the matrix, ``similarity`` their cosines. Where fewer were found, they are −1 and −∞.
    """

    rows: Int64[Tensor, "m"]
    index: Int64[Tensor, "m j"]
    similarity: Float[Tensor, "m j"]


def approximate_neighbours(
    features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], seed: int = 0, shards: Shards = LOCAL
) -> Neighbours:
    """The ten nearest by cosine of each of some rows, among these rows, by an inverted file.

    k-means on a sample partitions the rows into cells, and each row is compared with those of its four nearest cells
    (Jégou, Douze and Schmid 2011, section IV). Up to 4 000 rows all are compared. Time is O(4 000 · m · d), memory
    O(m). The features may be a memory map, of which rows are read a cell at a time. Ranks that see all rows each look
    for the neighbours of a share of them (``shards``), and get those of all.
    """
    j, own = min(N_NEIGHBOURS, max(len(rows) - 1, 0)), shards.part(len(rows))
    index = torch.full((own.stop - own.start, j), -1)
    similarity = torch.full(index.shape, -torch.inf, dtype=torch.float64)
    if j:
        for queries, members in _cells(features, rows, seed, shards):
            _merge_members(features, rows, queries, members, index, similarity, queries - own.start)
        index, similarity = shards.gather(index), shards.gather(similarity)
    return Neighbours(rows, torch.where(index < 0, -1, rows[index.clamp(min=0)]), similarity.float())


def neighbour_recall(
    features: Float[Tensor, "n d"], near: Neighbours, seed: int = 0, shards: Shards = LOCAL
) -> float | None:
    """Share of the true neighbours of 200 rows, drawn at random, that ``approximate_neighbours`` has found.

    These rows are compared with all others, in O(200 · m · d). None where all rows were.
    """
    n, j = len(near.rows), near.index.shape[1]
    if -(-n // CELL_ROWS) <= PROBES:
        return None
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:_ASKED].sort().values
    own = drawn[shards.part(len(drawn))]
    index = torch.full((len(own), j), -1)
    similarity = torch.full(index.shape, -torch.inf, dtype=torch.float64)
    _merge_members(features, near.rows, own, torch.arange(n), index, similarity, torch.arange(len(own)))
    found = (near.similarity[own] >= similarity[:, -1:] - _ROUNDING).sum()
    return int(shards.sum(found)) / (len(drawn) * j)


def _cells(
    features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], seed: int, shards: Shards
) -> Iterator[tuple[Int64[Tensor, "q"], Int64[Tensor, "c"]]]:
    """This rank's queries and the members of each cell, as positions in ``rows``."""
    own = shards.part(len(rows))
    n_cells = -(-len(rows) // CELL_ROWS)
    if n_cells <= PROBES:
        yield torch.arange(own.start, own.stop), torch.arange(len(rows))
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(rows), generator=generator)[: _SAMPLED * n_cells].sort().values
    sample = _unit_rows(features, rows[drawn[shards.part(len(drawn))]]).float()
    options = {"metric": "euclidean", "init": "random", "n_init": 1, "max_iter": 10, "sharded": shards.cut}
    centers = kmeans(sample, n_cells, generator=generator, **options).centers  # type: ignore[arg-type]
    mine = rows[own]
    near = torch.empty(len(mine), PROBES, dtype=torch.int64)
    for start in range(0, len(mine), _READ):
        x = _unit_rows(features, mine[start : start + _READ]).float()
        near[start : start + _READ] = squared_distances(x, centers).topk(PROBES, largest=False).indices
    nearest = shards.gather(near[:, 0].contiguous())
    probing, lists = _positions_by_cell(near.flatten(), n_cells), _positions_by_cell(nearest, n_cells)
    for queries, members in zip(probing, lists, strict=True):
        yield own.start + queries // PROBES, members


def _positions_by_cell(cells: Int64[Tensor, "m"], n_cells: int) -> tuple[Tensor, ...]:
    sizes = torch.bincount(cells, minlength=n_cells).tolist()
    return torch.split(cells.argsort(stable=True), sizes)


def _merge_members(
    features: Float[Tensor, "n d"],
    rows: Int64[Tensor, "m"],
    queries: Int64[Tensor, "q"],
    members: Int64[Tensor, "c"],
    index: Int64[Tensor, "own j"],
    similarity: Float[Tensor, "own j"],
    places: Int64[Tensor, "q"],
) -> None:
    """Merge the members into the neighbours that each query has so far, which are at its place."""
    for candidates in torch.split(members, _BLOCK):
        y = _unit_rows(features, rows[candidates])
        center = y.mean(0)  # about which differences of rows that are much alike keep their digits in float32
        y, y_lengths = _about(y, center)
        for block, place in zip(torch.split(queries, _BLOCK), torch.split(places, _BLOCK), strict=True):
            x, x_lengths = _about(_unit_rows(features, rows[block]), center)
            squared = torch.addmm(y_lengths, x, y.T, alpha=-2).add_(x_lengths[:, None])
            squared.masked_fill_(block[:, None] == candidates, torch.inf)
            best = squared.topk(min(index.shape[1], len(candidates)), largest=False)
            values = torch.cat([similarity[place], 1 - best.values.double().clamp(min=0) / 2], 1)
            found = torch.cat([index[place], candidates[best.indices]], 1)
            similarity[place], kept = values.topk(index.shape[1])
            index[place] = torch.where(similarity[place] == -torch.inf, -1, found.gather(1, kept))


def _unit_rows(features: Float[Tensor, "n d"], rows: Int64[Tensor, "b"]) -> Float64[Tensor, "b d"]:
    return normalize(features[rows].double())


def _about(
    unit: Float64[Tensor, "b d"], center: Float64[Tensor, "d"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b"]]:
    """Rows about a point in float32, and their squared lengths; a zero row adds 1, so that its cosines are 0."""
    x = (unit - center).float()
    return x, x.square().sum(1) + (~unit.any(1)).float()
