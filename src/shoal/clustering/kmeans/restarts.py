"""k-means from several seeds: the runs compete on a sample, and the best one continues on all rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.kmeans.init import candidates, coreset, random_seeds, seeds
from shoal.clustering.kmeans.lloyd import Solution, Tell, fast_lloyd, lloyd, solution_at
from shoal.clustering.kmeans.nearest import to_points, two_labels
from shoal.clustering.kmeans.subspace import is_wide, start_from_subspace
from shoal.clustering.parameters import (
    centers_from,
    check_centers_shape,
    check_choice,
    check_counts,
    check_n_clusters,
    check_not_negative,
    weights_from,
)
from shoal.clustering.rows import (
    LOCAL,
    Metric,
    Rows,
    Shards,
    angle_of_rounding,
    invalid_features_error,
    squared_distances,
)
from shoal.types import Clustering

ROUGH = 32
"""Largest ratio of the rows' sum of squares to the inertia at which bfloat16 can tell clusters apart."""

Init = Literal["k-means++", "k-means||", "random"]


@dataclass(frozen=True, eq=False)
class Settings:
    """How k-means is run; see ``kmeans``."""

    n_clusters: int
    metric: Metric = "cosine"
    init: Init | Float[Tensor, "k d"] | Float[Tensor, "r k d"] = "k-means++"
    """Given centres are those of one run, or of several."""
    n_init: int = 10
    max_iter: int = 300
    tol: float = 1e-4
    sharded: bool = False
    tell: Tell | None = None

    def check(self, n: int) -> None:
        """Refuse settings that mean nothing for n rows.

        Raises:
            UserError: names the setting.
        """
        check_n_clusters(n, n_clusters=self.n_clusters)
        check_counts(n_init=self.n_init, max_iter=self.max_iter)
        check_not_negative(tol=self.tol)
        if isinstance(self.init, str):
            check_choice(self.init, Init, "init")


def kmeans(  # noqa: PLR0913 - one parameter for each setting
    features: Float[Tensor, "n d"],
    n_clusters: int,
    *,
    generator: torch.Generator,
    metric: Metric = "cosine",
    init: Init | Float[Tensor, "k d"] = "k-means++",
    n_init: int = 10,
    max_iter: int = 300,
    tol: float = 1e-4,
    weights: Float[Tensor, "n"] | None = None,
    sharded: bool = False,
    warm_start: Float[Tensor, "k d"] | None = None,
) -> Clustering:
    """Cluster features by the best of several runs of k-means.

    The runs compete on a sample of the rows (on all of them, if they are few); the best continues on all rows until it
    converges. Memory beside the features is a few numbers per row. float16 and bfloat16 are computed in float32.

    Args:
        features: on any device; for the cosine they need not have unit length.
        n_clusters: k.
        generator: draws the seeds; the same state gives the same clusters.
        metric: "cosine" keeps the centres at unit length, "euclidean" minimises squared distances.
        init: how runs start: greedy "k-means++", the same among the candidates of "k-means||" (for thousands of
            clusters), from "random" rows; or the centres from which a single run starts.
        n_init: number of runs, of which the one with the smallest inertia is kept.
        max_iter: the most updates of the centres in a run.
        tol: a run ends when the squared moves of its centres sum to no more than this share of the features'
            variance (averaged over dimensions), or when no row changes cluster.
        weights: how often each row counts.
        sharded: the features are this rank's share of the rows (perhaps none), all ranks call this with generators in
            the same state, and get the clusters of all rows together.
        warm_start: centres of an earlier clustering from which one more run starts.

    Raises:
        UserError: fewer rows than clusters, NaN, infinity, a zero vector under the cosine, a wrong ``init``.
    """
    settings = Settings(n_clusters, metric, init, n_init, max_iter, tol, sharded)
    return run_kmeans(features, settings, generator, weights=weights, warm_start=warm_start)[0]


def run_kmeans(
    features: Float[Tensor, "n d"],
    settings: Settings,
    generator: torch.Generator,
    *,
    weights: Float[Tensor, "n"] | None = None,
    warm_start: Float[Tensor, "k d"] | None = None,
) -> tuple[Clustering, int]:
    """``kmeans``, and the number of updates of its centres."""
    shards = Shards(settings.sharded)
    weights = None if weights is None else weights_from(weights, features)
    rows = Rows(features, settings.metric, weights=weights)
    settings.check(shards.total(len(rows)))
    shape = (settings.n_clusters, rows.features.shape[1])
    rows, variance = well_conditioned(rows, shards)
    settings = replace(settings, tol=settings.tol * variance)
    if isinstance(settings.init, Tensor):
        best = _best_of_given(rows, settings, settings.init, shards)
    else:
        more = [] if warm_start is None else [centers_from(warm_start, rows, shape, "warm_start")]
        best = _best_run(rows, settings, generator, shards, more)
    if settings.metric == "cosine":
        best = _with_common_directions(rows, best, shards)
    return Clustering(best.labels, best.centers + rows.shift, rows.distance(best.squared)), best.n_iter


def _best_of_given(rows: Rows, settings: Settings, init: Tensor, shards: Shards) -> Solution:
    shape = (settings.n_clusters, rows.features.shape[1])
    runs = []
    for given in init if init.ndim == 3 else [init]:
        check_centers_shape(given, *shape)
        start = centers_from(given, rows, shape, "init")
        how = {"max_iter": settings.max_iter, "tol": settings.tol}
        runs.append(lloyd(rows, start, **how, shards=shards, tell=settings.tell))  # type: ignore[arg-type]
    return min(runs, key=lambda run: run.inertia)


def _with_common_directions(rows: Rows, found: Solution, shards: Shards) -> Solution:
    """Clusters of one direction, which differ by rounding alone, as one cluster."""
    reach = found.squared.new_zeros(len(found.centers)).scatter_reduce_(0, found.labels, found.squared, "amax")
    reach = shards.gather(reach[None]).amax(0).sqrt()
    same = first_of_direction(found.centers, reach, angle_of_rounding(rows))
    if len(torch.unique(same)) == len(same):
        return found
    merged = solution_at(rows, found.centers[same], found.n_iter, shards)
    return replace(merged, labels=same[merged.labels])


def first_of_direction(centers: Float[Tensor, "k d"], reach: Float[Tensor, "k"], angle: float) -> Int64[Tensor, "k"]:
    """For each cluster the first whose rows share its direction but for rounding, as multiples of a row do.

    The first represents itself: directions that are each near the next, but not near the first, are not a single one.
    If the others get its centre, rows must be assigned anew.

    Args:
        centers: of unit length.
        reach: largest distance of a row to its centre.
        angle: by how much rounding turns a row.
    """
    same = torch.arange(len(centers), device=centers.device)
    narrow = (reach <= angle).nonzero()[:, 0]
    if len(narrow) < 2:
        return same
    points, is_first = centers[narrow].double(), torch.zeros_like(narrow, dtype=torch.bool)
    step = max(1, 2**22 // points.numel())
    for part in torch.split(torch.arange(len(narrow), device=narrow.device), step):
        squared = squared_distances(points[part], points) + points[part].square().sum(1, keepdim=True)
        near = squared <= angle**2 + 1e-14  # products round, so that differences decide
        row, other = near.nonzero(as_tuple=True)
        near[row, other] = to_points(points[part][row], points[other]) <= angle
        for one, others in zip(part.tolist(), near, strict=True):
            firsts = (others & is_first).nonzero()[:, 0]
            is_first[one] = not len(firsts)
            if len(firsts):
                same[narrow[one]] = narrow[firsts[0]]
    return same


def _best_run(
    rows: Rows,
    settings: Settings,
    generator: torch.Generator,
    shards: Shards,
    more_starts: list[Float[Tensor, "k d"]],
) -> Solution:
    """The best of the runs on a sample, continued on all rows; ``tol`` is absolute here."""
    k, max_iter, tol = settings.n_clusters, settings.max_iter, settings.tol
    if settings.init == "k-means||":
        sample, whole = candidates(rows, k, generator, shards), False
    else:
        sample, whole = coreset(rows, k, generator, shards)
    random = settings.init == "random"
    # The mean of m / k rows has a squared error of k / m of the variance of a cluster, and all k means together one of
    # k² / m: a sum of squared moves below that is noise.
    noise = 0.0 if whole else k**2 / (len(sample) * float(sample.each_weight.sum()))
    if settings.init != "k-means||" and is_wide(sample, k):
        first = start_from_subspace(sample, k, settings.n_init, generator, max_iter=max_iter, random=random)[None]
    else:
        first = (random_seeds if random else seeds)(sample, k, settings.n_init, generator)
    starts = [*first, *more_starts]
    tell = settings.tell
    runs = (lloyd(sample, start, max_iter=max_iter, tol=tol, noise=noise, tell=tell) for start in starts)
    best = min(runs, key=lambda run: run.inertia)
    # Products in bfloat16 have an error of 2⁻⁸ of the squared lengths, which must be small beside squared distances.
    squares = float(sample.weighted(sample.squared_lengths[:, 0].double()).sum())
    rough = squares < ROUGH * best.inertia
    if not whole:
        start = shards.agree(best.centers)
        return fast_lloyd(rows, start, max_iter=max_iter, tol=tol, rough=rough, shards=shards, tell=tell)
    if best.n_iter < max_iter:
        left = max_iter - best.n_iter
        improved = fast_lloyd(sample, best.centers, max_iter=left, tol=tol, rough=rough, tell=tell)
        if improved.inertia < best.inertia:
            best = replace(improved, n_iter=best.n_iter + improved.n_iter)
    return solution_at(rows, shards.agree(best.centers), best.n_iter, shards)


def assign(
    features: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], metric: Metric
) -> tuple[Int64[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Nearest centre of each row, distance to it, and by how much the second nearest is farther.

    Distances are ‖x − c‖ or 1 − cos. With a single centre the margin is infinite.

    Raises:
        UserError: NaN, infinity, or a zero vector under the cosine, among the rows or the centres; matrices of
            different widths.
    """
    rows = Rows(features, metric)
    shape = (max(1, len(centers)) if centers.ndim else 1, rows.features.shape[1])
    rows = Rows(features, metric, centers_from(centers, rows, shape, "centers").median(0).values)
    points = rows.prepare(centers).to(rows.dtype)
    labels = torch.empty(len(rows), dtype=torch.int64, device=features.device)
    distances = torch.empty(len(rows), dtype=rows.dtype, device=features.device)
    margins = torch.full_like(distances, torch.inf)
    for part, x in rows.chunks(len(points)):
        labels[part], second = two_labels(x, points)
        distances[part] = rows.distance(to_points(x, points[labels[part]]).square())
        if len(points) > 1:
            farther = rows.distance(to_points(x, points[second]).square())
            margins[part] = (farther - distances[part]).clamp(min=0)
    if not torch.isfinite(distances).all():
        raise invalid_features_error(features)
    return labels, distances, margins


def well_conditioned(rows: Rows, shards: Shards = LOCAL) -> tuple[Rows, float]:
    """The rows in coordinates in which float32 is exact enough, and their variance averaged over the dimensions.

    Raises:
        UserError: a value is NaN or infinite, squares overflow or vanish, or a row is zero and the metric the cosine.
    """
    mean, variance = rows.moments(shards)
    if rows.metric == "cosine":
        unit = _has_unit_length(rows, shards)
        return Rows(rows.features, "cosine", weights=rows.weights, unit=unit), variance
    # Near the origin the rows can stay as they are, which saves a copy of every chunk.
    far = mean.square().sum() > 4 * variance * len(mean)
    return Rows(rows.features, "euclidean", mean if far else None, weights=rows.weights), variance


def _has_unit_length(rows: Rows, shards: Shards) -> bool:
    off = torch.zeros((), device=rows.features.device)
    for part in rows.parts(1):
        lengths = torch.linalg.vector_norm(rows.features[part].to(rows.dtype), dim=1)
        off += ((lengths - 1).abs() > 8 * torch.finfo(rows.dtype).eps).sum()
    return not shards.sum(off)
