"""Nearest neighbours: exact, or of very many rows by an inverted file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.cells import N_NEIGHBOURS, Cells, Vectors, compares_all, nearest_of_all
from shoal.clustering.inputs import ArrayOrTensor, as_input_type, features_from
from shoal.clustering.parameters import check_counts
from shoal.clustering.rows import (
    LOCAL,
    Metric,
    Rows,
    Shards,
    central_point,
    invalid_features_error,
    subsample,
    too_near,
    vanishes,
)
from shoal.errors import UserError
from shoal.mapped import release, scratch

CHUNK = 2**22
"""Values that the exact search holds at a time, beside the rows and the answer."""

_ASKED = 200  # rows whose neighbours are looked for among all
_ROUNDING = 1e-6  # of cosines

SPARE = 4
"""Candidates beside the k, whose true distances are computed as well."""

TIED = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Relative difference of squared distances, by precision, that is taken for none."""


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
            squares overflow or vanish.
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
        # ‖x‖² − 2x·y + ‖y‖² cancels far from the origin.
        self.center = central_point(self.others, torch.arange(len(self.others)))
        self.index = torch.empty(len(self.asked), k, dtype=torch.int64, device=features.device)
        self.squared = torch.empty(len(self.asked), k, dtype=dtype, device=features.device)

    def run(self) -> tuple[Int64[Tensor, "m k"], Float[Tensor, "m k"]]:
        """Indices and distances."""
        if self.others.metric == "euclidean" and vanishes(self._reach(), self.precision):
            raise too_near(self.precision)
        unsure = torch.arange(len(self.asked), device=self.index.device)
        for dtype in (torch.float32, torch.float64):
            if len(unsure):
                unsure = self._by_products(unsure, dtype)
        if len(unsure):
            self._by_differences(unsure)
        if not torch.isfinite(self.squared).all():
            raise invalid_features_error(self.others.features)
        return self.index, self.others.distance(self.squared).to(self.precision)

    def _reach(self) -> float:
        """The largest coordinate of a row about the central point."""
        return max(float((x - self.center).abs().max()) for _, x in self.others.chunks(1))

    def _by_products(self, rows: Int64[Tensor, "u"], dtype: torch.dtype) -> Int64[Tensor, "_"]:
        """Search for the neighbours of some rows; returns those that may have nearer ones than were found."""
        points = self._centred(dtype)
        lengths = points.square().sum(1)
        # The error of a product is a random walk of roundings (Higham and Mary 2019); 4 deviations, and the centring.
        slack = (4 * points.shape[1] ** 0.5 + 4) * torch.finfo(dtype).eps
        least_lengths = lengths * (1 - slack)
        step = max(1, CHUNK // max(len(points), self.n_candidates * points.shape[1]))
        # Large arrays that come and go between small ones that stay would leave holes in the memory.
        room = points.new_empty(min(step, len(rows)), len(points))
        unsure = torch.zeros_like(rows, dtype=torch.bool)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            x = self._about_center(self.asked[part], dtype)
            # Lower bounds of the squared distances, less a number for each row.
            bounds = torch.addmm(least_lengths, x, points.T, alpha=-2, out=room[: len(part)])
            if self.among_themselves:
                bounds.scatter_(1, part[:, None], torch.inf)
            least, near = bounds.topk(self.n_candidates, largest=False)
            apart = self._apart(part, x, points, near, lengths)
            order = apart.argsort(dim=1, stable=True)[:, : self.k]
            self.index[part], self.squared[part] = near.gather(1, order), apart.gather(1, order)
            farthest, others = self.squared[part, -1], least[:, -1] + x.square().sum(1) * (1 - slack)
            sure = (farthest * (1 - TIED[self.precision]) <= others) & torch.isfinite(others) | (farthest == 0)
            unsure[start : start + step] = ~sure if self.n_candidates < self.most else False
        return rows[unsure]

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
        """The rows about a central point.

        Raises:
            UserError: NaN, infinity, or a zero row under the cosine.
        """
        points = torch.empty(self.others.features.shape, dtype=dtype, device=self.center.device)
        for rows in [self.others] if self.among_themselves else [self.others, self.asked]:
            for part, x in rows.chunks(1):
                if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
                    raise invalid_features_error(rows.features)
                if rows is self.others:
                    points[part] = self._about_center(x, dtype)
        return points

    def _about_center(self, x: Float[Tensor, "b d"], dtype: torch.dtype) -> Float[Tensor, "b d"]:
        """Rows about the central point; the difference is rounded to a type once, and not before."""
        return (x.to(torch.promote_types(x.dtype, dtype)) - self.center).to(dtype)

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

    def blocks(self, size: int = 8192) -> Iterator[Neighbours]:
        """The same, of some rows at a time."""
        for start in range(0, len(self.rows), size):
            part = slice(start, start + size)
            yield Neighbours(self.rows[part], self.index[part], self.similarity[part])


def approximate_neighbours(
    features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], seed: int = 0, shards: Shards = LOCAL
) -> Neighbours:
    """The neighbours that ``neighbours_by_cell`` finds, of all rows at once, where they are many in scratch files.

    Of ranks that share the work, the first one has those of all rows, and the others have none.
    """
    j, own = min(N_NEIGHBOURS, max(len(rows) - 1, 0)), shards.part(len(rows))
    n, at = own.stop - own.start, 0
    index, similarity = scratch((n, j), torch.int64), scratch((n, j), torch.float32)
    for block in neighbours_by_cell(features, rows, seed, shards):
        part = slice(at, at + len(block.rows))
        index[part], similarity[part], at = block.index, block.similarity, part.stop
        release(index, similarity)
    index, similarity = (shards.on_first(each, len(rows)) for each in (index, similarity))
    return Neighbours(rows[: len(index)], index, similarity)


def neighbours_by_cell(
    features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], seed: int = 0, shards: Shards = LOCAL
) -> Iterator[Neighbours]:
    """The ten nearest by cosine of each of some rows, among these rows, by an inverted file, some thousand at a time.

    k-means on a sample partitions the rows into cells, and each row is compared with those of its four nearest cells
    (Jégou, Douze and Schmid 2011, section IV). Up to 4 000 rows all are compared. Beyond a million rows the cells are
    found in two steps, by groups of cells. A cell that has far more rows than others, because they are all alike, is
    searched in pieces. So time is O(5 000 · m · d), and memory a few numbers per row, which lie in scratch files
    (``mapped.scratch``) where rows are many. The features may be a memory map, of which rows are read a cell at a time.

    Ranks that see all rows look for the neighbours of a share of them each (``shards``), which are those yielded.
    """
    if len(rows) < 2:
        return
    for part, found, similarity in Cells(features, rows, seed, shards).run():
        yield Neighbours(rows[part], torch.where(found < 0, -1, rows[found.clamp(min=0)]), similarity.float())


class Recall:
    """Which share of the true neighbours ``neighbours_by_cell`` finds: asked for 200 rows, drawn at random."""

    def __init__(self, features: Float[Tensor, "n d"] | Vectors, rows: Int64[Tensor, "m"], seed: int = 0) -> None:
        self._features, self._rows = features, rows
        self._asked = rows[subsample(len(rows), _ASKED, torch.Generator().manual_seed(seed))]
        self._found = torch.full((len(self._asked), N_NEIGHBOURS), -torch.inf)

    def add(self, block: Neighbours) -> None:
        """Neighbours that were found."""
        place = torch.searchsorted(block.rows, self._asked).clamp(max=max(len(block.rows) - 1, 0))
        inside = (block.rows[place] == self._asked).nonzero()[:, 0]
        self._found[inside, : block.similarity.shape[1]] = block.similarity[place[inside]]

    def share(self) -> float | None:
        """Of all neighbours once they are there, by comparing with all rows; None where the search did so itself."""
        if compares_all(len(self._rows)):
            return None
        true = nearest_of_all(self._features, self._rows, self._asked, N_NEIGHBOURS)
        return float((self._found >= true[:, -1:] - _ROUNDING).float().mean())
