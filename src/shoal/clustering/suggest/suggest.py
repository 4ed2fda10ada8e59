"""How many clusters there are: one for each peak of the density that a valley separates from the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from shoal.clustering.inputs import drawn_features
from shoal.clustering.parameters import Array, check_choice
from shoal.clustering.rows import Metric, Rows, coincide, default_metric, invalid_features_error
from shoal.clustering.suggest.parts import looks_like_two
from shoal.clustering.suggest.places import Places, distinct_places
from shoal.clustering.suggest.stability import Halves
from shoal.clustering.suggest.valleys import DEEPEST, intrinsic_dimension, valley_depths, valley_groups
from shoal.device import hold_threads
from shoal.errors import UserError

MIN_ROWS = 8
"""Fewer different rows have no density."""

MAX_ROWS = 10_000
COLUMNS = 256
"""Principal components of wider rows."""

NEIGHBOURS = (8, 10, 12)
"""Numbers of neighbours by which the density is estimated, for 50 different rows or more."""

DEEP = 4.0
"""Standard errors by which a valley separates two groups: that of chance is as deep once in 16 000."""

CERTAIN = 6.0
"""Standard errors of valleys that the lower end of the interval counts."""

BY_CHANCE = 0.5
"""Valleys of chance that the upper end of the interval may count."""

UNSEEN = 4
"""Rows of a group that may go unseen among fewer than 50."""

COPIES = 5
"""So many copies of each of a few rows make every one of them a group."""

STABLE = 0.9
"""Agreement of two halves by which k-means finds more groups than the valleys separate."""

HALF_STABLE = 0.6
"""Agreement of two halves that widens the interval."""

APART = 2.0
"""By how many times few different rows of one group are farther from those of others than from each other."""

ROUND = 4
"""Dimensions from which k-means is asked: in fewer, it cuts a curve into equal parts the same way twice."""

MANY = 8
"""Clusters that k-means must find again if there is no valley at all: it may cut a single long group in a few."""


@dataclass(frozen=True)
class Candidate:
    """A number of clusters, and how well separated that many are."""

    k: int
    score: float
    """By how many standard errors the depth that is asked for, 4, may change until this k is no longer chosen;
    negative: until it is chosen."""
    depth: float | None
    """Depth of the shallowest valley between k groups, in standard errors, at most 20; None for one group."""
    by_chance: float
    """How many valleys at least so deep are expected where there are no groups."""
    stability: float | None
    """Adjusted Rand index between the clusters that k-means finds in two halves of the rows; None if not measured."""


@dataclass(frozen=True)
class Suggestion:
    """Numbers of clusters, best first, and the interval in which to look."""

    candidates: tuple[Candidate, ...]
    interval: tuple[int, int]
    clear: bool
    """Whether there are groups, their number hardly depends on how deep a valley has to be, and none looks like two."""
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
        lines = ["  k   score   depth   by chance   stability"]
        for c in self.candidates[:most]:
            depth = "–" if c.depth is None else f"{c.depth:.1f}"
            stability = "–" if c.stability is None else f"{c.stability:.2f}"
            lines.append(f"{c.k:3}   {c.score:5.1f}   {depth:>5}   {c.by_chance:9.2g}   {stability:>9}")
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

    Up to 10 000 rows are looked at, in 256 principal components at most, and of repeated and nearly repeated ones one
    each (``places``). The density is
    estimated from the distances to the 8th, 10th and 12th neighbour, and each of its peaks has a valley that separates
    it from higher ones (``valleys``). Depths are averaged over the three; k − 1 valleys deeper than four standard
    errors make k groups. The interval reaches from the valleys that are six deep by any number of neighbours, to all
    that are so deep that chance gives less than half a one, by any. The number is clear if the interval is not wider
    than 2, or a fifth of k, and does not reach 1. If it is not, and the rows have four dimensions or more, k-means is
    run on two halves of them (``stability``): round groups that touch have no valleys, but are found again.

    Args:
        features: (n, d), anything that the estimators take; the work is done on the CPU.
        k_range: the smallest and the largest k that may be suggested; all if not given.
        metric: decides which rows are neighbours; by default cosine, but euclidean for fewer than 16 columns unless all
            rows have one direction.
        seed: draws the sample and starts k-means.

    Raises:
        UserError: a range that is reversed, below 1 or above the number of rows; NaN, infinity, rows that under the
            cosine are zero; whatever is not a matrix of numbers.
    """
    rows = drawn_features(features, MAX_ROWS, torch.Generator().manual_seed(seed)).detach().cpu()
    low, high = _range(k_range, len(rows))
    if metric is None:  # whether lengths count where directions are all the same is not for us to say
        metric = "cosine" if len(rows) and coincide(rows, "cosine") else default_metric(rows.shape[1])
    check_choice(metric, Metric, "metric")
    places = distinct_places(_points(rows, metric, seed))
    valleys = _valleys(places, len(rows))
    halves = Halves(places.points, seed)
    if valleys.dimension >= ROUND:
        most = max(math.isqrt(len(places)), valleys.most * 3 // 2)
        first, last = (valleys.found, valleys.most + 2) if valleys.sharp else (2, most)
        halves.sweep(max(2, low, first), min(high, last, len(places) // 8))
    return _suggestion(valleys, halves, (low, high), len(rows), len(places), metric)


def _points(rows: Float[Tensor, "n d"], metric: Metric, seed: int) -> Float[Tensor, "n d"]:
    """The rows about their median, under the cosine at unit length, in their own precision but at least float32."""
    if not torch.isfinite(rows).all() or (metric == "cosine" and not rows.any(1).all()):
        raise invalid_features_error(rows)
    if not len(rows) or coincide(rows, metric):
        return rows.new_zeros(min(1, len(rows)), 1)
    points = Rows(rows, metric, dtype=torch.float64)[:]
    points = points - points.median(0).values
    points = points / points.abs().max()  # squares neither overflow nor vanish
    points = points.to(torch.promote_types(rows.dtype, torch.float32))
    return _principal(points, seed) if points.shape[1] > COLUMNS else points


def _principal(points: Float[Tensor, "n d"], seed: int) -> Float[Tensor, "n c"]:
    """Principal components, which keep what tells groups apart and are quicker to compare."""
    from sklearn.decomposition import PCA  # slow to import

    components = PCA(min(COLUMNS, len(points)), svd_solver="randomized", random_state=seed % 2**32)
    with hold_threads():
        return torch.from_numpy(components.fit_transform(points.numpy()))


def _range(k_range: tuple[int, int] | None, n: int) -> tuple[int, int]:
    if k_range is None:
        return 1, max(1, n)
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


@dataclass(frozen=True, eq=False)
class _Valleys:
    """What the valleys say: how many groups, from how many to how many."""

    depths: list[float]
    """Mean over numbers of neighbours, deepest first."""
    fewest: int
    most: int
    dimension: float
    measured: bool = True
    """Whether there are rows enough for a density."""
    double: int = 0
    """Groups that look like two; 0 if their number depends on how deep a valley must be."""

    @property
    def found(self) -> int:
        """Groups that valleys separate."""
        return 1 + sum(depth > DEEP for depth in self.depths)

    @property
    def sharp(self) -> bool:
        """Whether the number of groups hardly depends on how deep a valley must be."""
        return self.measured and self.fewest > 1 and self.most - self.fewest <= max(2, self.found / 5)


def _valleys(places: Places, n_rows: int) -> _Valleys:
    if len(places) * COPIES <= n_rows and len(places) < 2 * NEIGHBOURS[-1]:
        return _Valleys([DEEPEST] * (len(places) - 1), _fewest_of_few(places), len(places), 0.0, measured=False)
    if len(places) < MIN_ROWS:
        return _Valleys([], 1, max(1, len(places) // UNSEEN), 0.0, measured=False)
    most = min(1.0, len(places) / (5 * NEIGHBOURS[1]))
    numbers = sorted({max(3, round(most * k)) for k in NEIGHBOURS})
    distances = places.distances.double().clamp(min=torch.finfo(torch.float32).tiny)
    dimension = intrinsic_dimension(distances[:, : numbers[-1]])
    each = [valley_depths(places.points, places.index, distances, k) for k in numbers]
    mean = torch.nn.utils.rnn.pad_sequence(each).mean(1).tolist()
    found = 1 + sum(depth > DEEP for depth in mean)
    fewest = 1 + min(int((depths > CERTAIN).sum()) for depths in each)
    largest = 1 + max(int((len(depths) * torch.erfc(depths / math.sqrt(2)) < BY_CHANCE).sum()) for depths in each)
    if found == 1 and most < 1:
        largest = max(largest, len(places) // UNSEEN)
    valleys = _Valleys(mean, min(fewest, found), max(largest, found), dimension)
    if not valleys.sharp:
        return valleys
    groups = valley_groups(places.index, distances, numbers[1], DEEP)
    parts = (places.points[groups == group] for group in torch.unique(groups))
    return replace(valleys, double=sum(looks_like_two(points) for points in parts if len(points) >= MIN_ROWS))


def _fewest_of_few(places: Places) -> int:
    """Groups into which few different rows fall, if those are far apart; else each is one."""
    from scipy.cluster.hierarchy import linkage  # slow to import

    if len(places) < 3:
        return len(places)
    heights = linkage(places.points.double().numpy(), "single")[:, 2]
    growth = heights[1:] / heights[:-1]
    return len(places) - 1 - int(growth.argmax()) if growth.max() >= APART else len(places)


def _suggestion(
    valleys: _Valleys, halves: Halves, wanted: tuple[int, int], n_rows: int, n_places: int, metric: Metric
) -> Suggestion:
    low, high = wanted
    stability = halves.stability
    stable = halves.best(valleys.found + 1 if valleys.found > 1 else MANY)
    again = stability.get(stable, 0) >= max(STABLE, stability.get(valleys.found, 0)) and (
        stable <= valleys.most or not valleys.sharp
    )
    found = stable if again else valleys.found
    beyond = halves.best(valleys.most + 1)
    needed = max(STABLE, stability.get(found, 0)) if valleys.sharp else HALF_STABLE
    by_kmeans = beyond if stability.get(beyond, 0) > needed else 0
    largest = max(valleys.most, valleys.found + valleys.double, found, by_kmeans)
    tried = {*range(low, max(low, min(high, valleys.most + 1)) + 1), *stability, min(max(found, low), high)}
    candidates = [_candidate(k, valleys.depths, stability.get(k)) for k in tried]
    best = min(max(found, low), high)
    candidates.sort(key=lambda c: (c.k != best, -c.score, c.k))
    interval = min(max(valleys.fewest, low), high), max(min(largest, high), low)
    return Suggestion(
        candidates=tuple(candidates),
        interval=interval if found > 1 or low == 1 else wanted,
        clear=valleys.sharp and not valleys.double and found == best,
        n_rows=n_rows,
        metric=metric,
        notes=tuple(_notes(valleys, found, again, high, n_rows, n_places, metric)),
    )


def _candidate(k: int, depths: list[float], stability: float | None) -> Candidate:
    own = None if k == 1 else depths[k - 2] if k <= len(depths) + 1 else 0.0
    following = depths[k - 1] if k <= len(depths) else 0.0
    score = min(DEEPEST if own is None else own - DEEP, DEEP - following)
    by_chance = 0.0 if own is None else len(depths) * math.erfc(own / math.sqrt(2))
    return Candidate(k, score, own, by_chance, stability)


def _all_alike(n_rows: int, metric: Metric) -> str:
    if n_rows == 1:
        return "there is only 1 row"
    what = "are the same" if metric == "euclidean" else "have the same direction (metric='euclidean' sees lengths)"
    return f"all {n_rows} rows {what}"


def _notes(
    valleys: _Valleys, found: int, again: bool, high: int, n_rows: int, n_places: int, metric: Metric
) -> list[str]:
    notes = []
    if n_places == 1:
        notes.append(f"There is nothing to cluster: {_all_alike(n_rows, metric)}.")
    elif found == 1:
        what = (
            "no valley separates groups" if n_places >= MIN_ROWS else f"{n_places} rows are too few to look for groups"
        )
        notes.append(f"There is no clear structure: {what}. To cut the rows into parts nevertheless, choose -k.")
    elif again:
        notes.append(
            f"Valleys separate {valleys.found} groups; k-means finds the same {found} in two halves of the rows."
        )
    elif not valleys.measured:
        notes.append(f"There are only {n_places} different rows: whether similar ones belong together is not clear.")
    elif valleys.double:
        notes.append(f"How many groups there are is not clear: {valleys.double} of them may be two that overlap.")
    elif not valleys.sharp:
        notes.append("How many groups there are is not clear: some of them overlap.")
    if 1 < n_places < 0.9 * n_rows:
        notes.append(f"{n_rows - n_places} of {n_rows} rows repeat others, exactly or nearly, and were counted once.")
    if found > high:
        notes.append(f"There seem to be {found} groups: try beyond {high}.")
    elif 1 < found < n_places < 2 * NEIGHBOURS[-1] * found:
        notes.append(
            f"Groups have {n_places // found} rows, and fewer would not be seen: there may be groups beyond {found}."
        )
    return notes
