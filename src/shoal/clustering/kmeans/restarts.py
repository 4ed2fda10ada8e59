"""k-means on the device where the features are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.inputs import weights_from
from shoal.clustering.kmeans.init import candidates, coreset, random_seeds, seeds
from shoal.clustering.kmeans.lloyd import Solution, fast_lloyd, found_at, lloyd
from shoal.clustering.kmeans.nearest import to_points, two_labels
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, invalid_features_error
from shoal.errors import UserError
from shoal.types import Clustering

ROUGH = 32
"""How many times the inertia the squares of the rows may be for bfloat16 to tell clusters apart."""

Init = Literal["k-means++", "k-means||", "random"]


def kmeans(  # noqa: PLR0913 - a setting each
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
    """Cluster features, as ``best_centers`` does."""
    return best_centers(
        features,
        n_clusters,
        generator=generator,
        metric=metric,
        init=init,
        n_init=n_init,
        max_iter=max_iter,
        tol=tol,
        weights=weights,
        sharded=sharded,
        warm_start=warm_start,
    )[0]


def best_centers(  # noqa: PLR0913 - a setting each
    features: Float[Tensor, "n d"],
    n_clusters: int,
    *,
    generator: torch.Generator,
    metric: Metric,
    init: Init | Float[Tensor, "k d"],
    n_init: int,
    max_iter: int,
    tol: float,
    weights: Float[Tensor, "n"] | None = None,
    sharded: bool = False,
    warm_start: Float[Tensor, "k d"] | None = None,
) -> tuple[Clustering, int]:
    """The best of several runs of k-means, and how many times its centres were updated.

    The runs compete on a sample of the rows (all of them, if they are few); the best goes on with all rows until it
    converges. Beside the features it holds a few numbers per row. float16 and bfloat16 are computed in float32.

    Args:
        features: on any device; for the cosine they need no unit length.
        n_clusters: k.
        generator: source of the seeds; the same state gives the same clusters.
        metric: "cosine" keeps the centres at unit length, "euclidean" minimises squared distances.
        init: how runs start: greedy "k-means++", the same among the candidates of "k-means||" (for thousands of
            clusters), from "random" rows; or the centres themselves, of the last clustering for one, for a single run.
        n_init: how many runs, of which the one with the smallest inertia is kept.
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
    shards = Shards(sharded)
    weights = None if weights is None else weights_from(weights, features)
    rows = Rows(features, metric, weights=weights)
    n, d = shards.total(len(rows)), rows.features.shape[1]
    check_n_clusters(n_clusters, n)
    check_counts(n_init=n_init, max_iter=max_iter)
    if not tol >= 0:
        raise UserError(f"tol={tol} must be at least 0.")
    rows, variance = ready(rows, shards)
    if isinstance(init, Tensor):
        start = given_points(rows, init, (n_clusters, d), "init")
        best = lloyd(rows, start, max_iter=max_iter, tol=tol * variance, shards=shards)
    else:
        more = [] if warm_start is None else [given_points(rows, warm_start, (n_clusters, d), "warm_start")]
        best = _best_of(rows, known_init(init), n_clusters, n_init, generator, max_iter, tol * variance, shards, more)
    return Clustering(best.labels, best.centers + rows.shift, rows.distance(best.squared)), best.n_iter


def assign(
    features: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], metric: Metric
) -> tuple[Int64[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Nearest centre of each row, distance to it, and how much farther the second nearest is.

    Distances are ‖x − c‖ or 1 − cos. With a single centre the margin is infinite.

    Raises:
        UserError: NaN, infinity, or a zero vector under the cosine, among the rows or the centres; no matrices of the
            same width.
    """
    rows = Rows(features, metric)
    shape = (max(1, len(centers)) if centers.ndim else 1, rows.features.shape[1])
    rows = Rows(features, metric, given_points(rows, centers, shape, "centers").median(0).values)
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


def given_points(rows: Rows, points: Float[Tensor, "k d"], shape: tuple[int, int], name: str) -> Float[Tensor, "k d"]:
    """Points that a user gave as parameter ``name``, in the coordinates of the rows.

    Raises:
        UserError: another shape, NaN, infinity or, under the cosine, a zero row.
    """
    if points.shape != shape:
        raise UserError(f"{name} has shape {tuple(points.shape)}: give {shape}, one row for each cluster.")
    start = rows.prepare(points.to(rows.features.device))
    if not torch.isfinite(start).all():
        raise UserError(f"{name} holds NaN, infinity or, under the cosine, a zero row: give other centres.")
    return start


def ready(rows: Rows, shards: Shards = LOCAL) -> tuple[Rows, float]:
    """The rows in coordinates in which float32 is exact enough, and their variance averaged over the dimensions.

    Raises:
        UserError: a value is NaN or infinite, squares overflow or vanish, or a row is zero and the metric the cosine.
    """
    mean, variance = rows.moments(shards)
    if rows.metric == "cosine":
        unit = _at_unit_length(rows, shards)
        return Rows(rows.features, "cosine", weights=rows.weights, unit=unit), variance
    # Near the origin the rows can stay as they are, which saves a copy of every chunk.
    far = mean.square().sum() > 4 * variance * len(mean)
    return Rows(rows.features, "euclidean", mean if far else None, weights=rows.weights), variance


def _at_unit_length(rows: Rows, shards: Shards) -> bool:
    off = torch.zeros((), device=rows.features.device)
    for part in rows.parts(1):
        lengths = torch.linalg.vector_norm(rows.features[part].to(rows.dtype), dim=1)
        off += ((lengths - 1).abs() > 8 * torch.finfo(rows.dtype).eps).sum()
    return not shards.sum(off)


def check_counts(**counts: int) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        UserError: it names the parameter.
    """
    for name, count in counts.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise UserError(f"{name}={count!r} must be a whole number, at least 1.")


def check_n_clusters(n_clusters: int, n: int) -> None:
    """Refuse more clusters than rows, and none.

    Raises:
        UserError: there are not so many rows, or it is no whole number.
    """
    check_counts(n_clusters=max(n_clusters, 1) if isinstance(n_clusters, Integral) else n_clusters)
    if not 1 <= n_clusters <= n:
        raise UserError(
            f"n_clusters={n_clusters} must lie between 1 and the number of rows (n_samples={n}): change it."
        )


def known_init(init: str) -> Init:
    """A way to start, by its name.

    Raises:
        UserError: there is none of this name.
    """
    if init not in get_args(Init):
        raise UserError(f"there is no init {init!r}: give one of {', '.join(get_args(Init))}, or an array of centres.")
    return init  # type: ignore[return-value]


def _best_of(  # noqa: PLR0913, PLR0917 - a setting each
    rows: Rows,
    init: Init,
    n_clusters: int,
    n_init: int,
    generator: torch.Generator,
    max_iter: int,
    tol: float,
    shards: Shards,
    more: Sequence[Float[Tensor, "k d"]],
) -> Solution:
    """Run on a sample, and the best of the runs to its end on all rows."""
    if init == "k-means||":
        sample, whole = candidates(rows, n_clusters, generator, shards), False
    else:
        sample, whole = coreset(rows, n_clusters, generator, shards)
    draw = random_seeds if init == "random" else seeds
    # Means of m / k rows each are off by k / m of the variance of a cluster, all k together by k² / m of it: a sum of
    # squared moves below that is chance.
    noise = 0.0 if whole else n_clusters**2 / (len(sample) * float(sample.each_weight.sum()))
    starts = [*draw(sample, n_clusters, n_init, generator), *more]
    runs = (lloyd(sample, start, max_iter=max_iter, tol=tol, noise=noise) for start in starts)
    best = min(runs, key=lambda run: run.inertia)
    # Products in bfloat16 are off by 2⁻⁸ of the squared lengths, which must be little beside squared distances.
    squares = float(sample.weighted(sample.squared_lengths[:, 0].double()).sum())
    rough = squares < ROUGH * best.inertia
    if not whole:
        return fast_lloyd(rows, shards.agree(best.centers), max_iter=max_iter, tol=tol, rough=rough, shards=shards)
    if best.n_iter < max_iter:
        mended = fast_lloyd(sample, best.centers, max_iter=max_iter - best.n_iter, tol=tol, rough=rough)
        if mended.inertia < best.inertia:
            best = replace(mended, n_iter=best.n_iter + mended.n_iter)
    return found_at(rows, shards.agree(best.centers), best.n_iter, shards)
