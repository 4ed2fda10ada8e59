"""How many clusters there are: one for each peak of the density that a valley separates from the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float64
from torch import Tensor

from shoal.clustering.inputs import drawn_features
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.parameters import Array, check_choice
from shoal.clustering.rows import Metric, Rows, coincide, invalid_features_error
from shoal.clustering.suggest.places import distinct_places
from shoal.clustering.suggest.valleys import DEEPEST, valley_depths
from shoal.errors import UserError

MIN_ROWS = 8
MAX_ROWS = 10_000
NEIGHBOURS = (8, 10, 12)
"""Numbers of neighbours by which the density is estimated, for 60 different rows or more."""

DEEP = 4.0
"""Standard errors by which a valley separates two groups: that of chance is as deep once in 16 000."""

CERTAIN = 6.0
"""Standard errors of valleys that the lower end of the interval counts."""

BY_CHANCE = 0.5
"""Valleys of chance that the upper end of the interval may count."""

COPIES = 5
"""So many copies of each of a few rows make every one of them a group."""

FEW_COLUMNS = 16
"""Fewer columns are measurements, whose distance counts, rather than the direction of an embedding."""


@dataclass(frozen=True)
class Candidate:
    """A number of clusters, and how well separated so many are."""

    k: int
    score: float
    """By how many standard errors the depth that is asked for (4) may change until this k is no longer chosen; negative:
    until it is chosen."""
    depth: float | None
    """Depth of the shallowest valley between k groups, in standard errors, at most 20; None for one group."""
    by_chance: float
    """How many valleys at least so deep are expected where there are no groups."""


@dataclass(frozen=True)
class Suggestion:
    """Numbers of clusters, best first, and the interval in which to look."""

    candidates: tuple[Candidate, ...]
    interval: tuple[int, int]
    clear: bool
    """Whether there are groups, and their number hardly depends on how deep a valley has to be."""
    n_rows: int
    """Rows that were looked at, a random sample if there are more."""
    metric: Metric
    notes: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The first of the candidates."""
        return self.candidates[0]

    @property
    def k(self) -> int:
        """The number of clusters of the best candidate."""
        return self.best.k

    def as_text(self, most: int = 10) -> str:
        """A table of the best candidates, the interval and the notes."""
        lines = ["  k   score   depth   by chance"]
        for c in self.candidates[:most]:
            depth = "–" if c.depth is None else f"{c.depth:.1f}"
            lines.append(f"{c.k:3}   {c.score:5.1f}   {depth:>5}   {c.by_chance:9.2g}")
        low, high = self.interval
        lines += ["", f"best k = {self.k}, plausible from {low} to {high}", *self.notes]
        return "\n".join(lines)


def suggest_k(
    features: Array | Tensor,
    k_range: tuple[int, int] | None = None,
    *,
    metric: Metric | None = None,
    seed: int = 0,
) -> Suggestion:
    """Count the peaks of the density that valleys separate; a group may have any shape, size and width.

    Up to 10 000 rows are looked at, of repeated and nearly repeated ones one each (``places``). The density is
    estimated from the distances to the 8th, 10th and 12th neighbour, and each of its peaks has a valley that separates
    it from higher ones (``valleys``). Depths are averaged over the three. k − 1 valleys deeper than four standard
    errors make k groups. The interval reaches from the valleys that are six deep with any number of neighbours, to all
    that are deeper than the half of a valley that chance would give, with any. It is clear that there are k if it is
    not wider than 2, or a fifth of k, and does not reach 1.

    Args:
        features: (n, d), anything that the estimators take; the work is done on the CPU.
        k_range: the smallest and the largest k that may be suggested; all if not given.
        metric: decides which rows are neighbours; by default cosine, but euclidean for fewer than 16 columns.
        seed: draws the sample.

    Raises:
        UserError: a range that is reversed, below 1 or above the number of rows; fewer than 8 rows; NaN, infinity, rows
            that are all the same or, under the cosine, zero or of one direction; whatever is no matrix of numbers.
    """
    rows = drawn_features(features, MAX_ROWS, torch.Generator().manual_seed(seed)).detach().cpu()
    metric = metric or ("euclidean" if rows.shape[1] < FEW_COLUMNS else "cosine")
    check_choice(metric, Metric, "metric")
    wanted = _range(k_range, len(rows))
    places = distinct_places(_points(rows, metric))
    if len(places) * COPIES <= len(rows) and len(places) < 2 * NEIGHBOURS[-1]:
        depths = [torch.full((len(places) - 1,), DEEPEST, dtype=torch.float64)]
    else:
        depths = _depths(places)
    return _suggestion(depths, wanted, len(rows), len(places), metric)


def _points(rows: Tensor, metric: Metric) -> Tensor:
    """The rows about their median, under the cosine at unit length, in their own precision but at least float32."""
    if len(rows) < MIN_ROWS:
        raise UserError(f"{len(rows)} rows are too few to suggest a number of clusters: choose it yourself (-k N).")
    if not torch.isfinite(rows).all() or (metric == "cosine" and not rows.any(1).all()):
        raise invalid_features_error(rows)
    if coincide(rows, metric):
        way_out = ", or give metric='euclidean'" if metric == "cosine" else ""
        what = "share one direction" if metric == "cosine" else "are the same"
        raise UserError(f"all {len(rows)} rows {what}: there is nothing to cluster{way_out}.")
    points = Rows(rows, metric, dtype=torch.float64)[:]
    points = points - points.median(0).values
    points = points / points.abs().max()  # squares neither overflow nor vanish
    return points.to(torch.promote_types(rows.dtype, torch.float32))


def _range(k_range: tuple[int, int] | None, n: int) -> tuple[int, int]:
    if k_range is None:
        return 1, n
    if len(k_range) != 2 or not all(isinstance(k, Integral) and not isinstance(k, bool) for k in k_range):
        raise UserError(f"k_range={k_range!r} must be two whole numbers, the smallest and the largest k.")
    low, high = map(int, k_range)
    if low > high:
        raise UserError(f"k_range is reversed ({low}, {high}): give the smaller k first.")
    if low < 1:
        raise UserError(f"k_range starts at {low}: give 1 or more.")
    if high > n:
        raise UserError(f"k_range ends at {high}: give at most {n}, the number of rows that are looked at.")
    return low, high


def _depths(places: Tensor) -> list[Float64[Tensor, "_"]]:
    """Depths of the valleys by each number of neighbours, a fifth of the rows at most."""
    most = min(1.0, len(places) / (5 * NEIGHBOURS[1]))
    numbers = sorted({max(3, round(most * k)) for k in NEIGHBOURS})
    index, distances = nearest_neighbours(places, min(2 * numbers[-1], len(places) - 1), "euclidean")
    distances = distances.double().clamp(min=torch.finfo(torch.float32).tiny)
    return [valley_depths(places.double(), index, distances, k) for k in numbers if k < len(places)]


def _suggestion(
    depths: Sequence[Float64[Tensor, "_"]], wanted: tuple[int, int], n_rows: int, n_places: int, metric: Metric
) -> Suggestion:
    """``depths`` are those by each number of neighbours."""
    low, high = wanted
    most = max((len(each) for each in depths), default=0)
    mean = torch.stack([torch.nn.functional.pad(each, (0, most - len(each))) for each in depths]).mean(0).tolist()
    found = 1 + sum(depth > DEEP for depth in mean)
    fewest = 1 + min(int((each > CERTAIN).sum()) for each in depths)
    largest = 1 + max(int((_expected(each) < BY_CHANCE).sum()) for each in depths)
    tried = range(low, max(low, min(high, 1 + most)) + 1)
    candidates = sorted((_candidate(k, mean) for k in tried), key=lambda c: (-c.score, c.k))
    ends = min(fewest, found), max(largest, found)
    clear = ends[0] > 1 and ends[1] - ends[0] <= max(2, found / 5) and low <= found <= high
    interval = (min(max(ends[0], low), high), max(min(ends[1], high), low))
    return Suggestion(
        candidates=tuple(candidates),
        interval=interval if found > 1 or low == 1 else wanted,
        clear=clear,
        n_rows=n_rows,
        metric=metric,
        notes=tuple(_notes(found, ends, wanted, n_rows, n_places, clear=clear)),
    )


def _expected(depths: Float64[Tensor, "v"]) -> Float64[Tensor, "v"]:
    """How many of so many valleys would be as deep by chance, which makes them half-normal."""
    return len(depths) * torch.erfc(depths / math.sqrt(2))


def _candidate(k: int, depths: list[float]) -> Candidate:
    own = depths[k - 2] if 1 < k <= len(depths) + 1 else None if k == 1 else 0.0
    following = depths[k - 1] if k <= len(depths) else 0.0
    score = min(DEEPEST if own is None else own - DEEP, DEEP - following)
    by_chance = 0.0 if own is None else len(depths) * math.erfc(own / math.sqrt(2))
    return Candidate(k, score, own, by_chance)


def _notes(
    found: int, ends: tuple[int, int], wanted: tuple[int, int], n_rows: int, n_places: int, *, clear: bool
) -> list[str]:
    notes = []
    if found == 1:
        notes.append(
            "There is no clear structure: no valley separates groups, so the rows are one cluster. To cut them into "
            "parts nevertheless, choose their number (-k N)."
        )
    elif not clear:
        notes.append("How many groups there are is not clear: some of them overlap.")
    if n_places < 0.9 * n_rows:
        notes.append(f"{n_rows - n_places} of {n_rows} rows repeat others, nearly or exactly, and were counted once.")
    if found > wanted[1]:
        notes.append(f"There seem to be {found} groups: try beyond {wanted[1]}.")
    elif 1 < found < n_places < 2 * NEIGHBOURS[-1] * found and ends[1] < n_places:
        notes.append(f"Groups have {n_places // found} rows, and few more would not be seen: there may be groups beyond {found}.")
    return notes
