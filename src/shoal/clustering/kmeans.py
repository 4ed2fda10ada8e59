"""k-means on the device where the features are."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.lloyd import Solution, lloyd
from shoal.clustering.rows import Metric, Rows, squared_distances, unusable
from shoal.clustering.seeding import candidates_per_step, seed
from shoal.errors import UserError
from shoal.types import Clustering


def kmeans(
    features: Float[Tensor, "n d"],
    n_clusters: int,
    *,
    generator: torch.Generator,
    metric: Metric = "cosine",
    init: Float[Tensor, "k d"] | None = None,
    n_init: int = 10,
    max_iter: int = 300,
    tol: float = 1e-4,
) -> Clustering:
    """Cluster features, as ``best_centers`` does."""
    solution = best_centers(
        features,
        n_clusters,
        generator=generator,
        metric=metric,
        init=init,
        n_init=n_init,
        max_iter=max_iter,
        tol=tol,
    )
    labels, distances, _ = assign(features, solution.centers, metric)
    return Clustering(labels, solution.centers, distances)


def best_centers(
    features: Float[Tensor, "n d"],
    n_clusters: int,
    *,
    generator: torch.Generator,
    metric: Metric,
    init: Float[Tensor, "k d"] | None,
    n_init: int,
    max_iter: int,
    tol: float,
) -> Solution:
    """The best of several runs of k-means: seeds by greedy k-means++, then Lloyd's iteration.

    Beside the features it holds a few numbers per row and restart, never one per row and cluster. float16 and
    bfloat16 features are computed in float32, float64 in float64.

    Args:
        features: on any device; for the cosine they need no unit length.
        n_clusters: k.
        generator: source of the seeds; the same state gives the same clusters.
        metric: "cosine" keeps the centres at unit length, "euclidean" minimises squared distances.
        init: where to start from instead of k-means++; there is then one run.
        n_init: how many runs, of which the one with the smallest inertia is kept.
        max_iter: the most updates of the centres in a run.
        tol: a run ends when the squared moves of its centres sum to no more than this share of the features'
            variance (averaged over dimensions), or when no row changes cluster.

    Raises:
        UserError: fewer rows than clusters, NaN, infinity, a zero vector under the cosine, a wrong ``init``.
    """
    n, d = features.shape
    if not 1 <= n_clusters <= n:
        raise UserError(
            f"n_clusters={n_clusters} must lie between 1 and the number of rows (n_samples={n}): change it."
        )
    if n_init < 1 or max_iter < 1:
        raise UserError(f"n_init={n_init} and max_iter={max_iter} must be at least 1.")
    mean, variance = Rows(features, metric).moments()
    rows = Rows(features, metric, mean)
    if init is not None:
        best = lloyd(rows, given_points(rows, init, (n_clusters, d), "init"), max_iter, tol * variance)
    else:
        each = _restarts_at_once(rows, n_clusters)
        sizes = [min(each, n_init - done) for done in range(0, n_init, each)]
        runs = (lloyd(rows, seed(rows, n_clusters, r, generator), max_iter, tol * variance) for r in sizes)
        best = min(runs, key=lambda run: run.inertia)
    if metric == "euclidean":
        return Solution(best.centers + rows.shift, best.inertia, best.n_iter)
    return best


def assign(
    features: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], metric: Metric
) -> tuple[Int64[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Nearest centre of each row, distance to it, and how much farther the second nearest is.

    Distances are ‖x − c‖ or 1 − cos. With a single centre the margin is infinite.

    Raises:
        UserError: NaN, infinity, or a zero vector under the cosine.
    """
    rows = Rows(features, metric, centers.mean(0))
    points = rows.prepare(centers)
    labels = torch.empty(len(rows), dtype=torch.int64, device=features.device)
    distances = torch.empty(len(rows), dtype=rows.dtype, device=features.device)
    margins = torch.full_like(distances, torch.inf)
    for part, x in rows.chunks(len(points)):
        squared = squared_distances(x, points)
        labels[part] = squared.argmin(1)
        distances[part] = _to_point(rows, x, points[labels[part]])
        if len(points) > 1:
            second = squared.scatter_(1, labels[part, None], torch.inf).argmin(1)
            margins[part] = (_to_point(rows, x, points[second]) - distances[part]).clamp(min=0)
    if not torch.isfinite(distances).all():
        raise unusable(features)
    return labels, distances, margins


def _to_point(rows: Rows, x: Float[Tensor, "b d"], points: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """Distance of each row to its own point, by difference: ‖x‖² − 2x·y + ‖y‖² cancels near it."""
    return rows.distance((x - points).square().sum(1))


def given_points(rows: Rows, points: Float[Tensor, "k d"], shape: tuple[int, int], name: str) -> Float[Tensor, "1 k d"]:
    """Points that a user gave as parameter ``name``, in the coordinates of the rows.

    Raises:
        UserError: another shape, NaN, infinity or, under the cosine, a zero row.
    """
    if points.shape != shape:
        raise UserError(f"{name} has shape {tuple(points.shape)}: give {shape}, one row for each cluster.")
    start = rows.prepare(points.to(rows.features.device))
    if not torch.isfinite(start).all():
        raise UserError(f"{name} holds NaN, infinity or, under the cosine, a zero row: give other centres.")
    return start[None]


def _restarts_at_once(rows: Rows, n_clusters: int) -> int:
    """As many as leave the memory beside the features at a quarter of theirs, or at 64 MB if that is more."""
    per_restart = len(rows) * (candidates_per_step(n_clusters) + 4)
    return max(1, max(rows.features.numel() // 4, 2**24) // per_restart)
