"""How good clusters look without labels: silhouette, Davies–Bouldin, Calinski–Harabasz.

Everything is computed in float64, a chunk at a time: beside the features there are a few numbers per row, and of the
clusters their means. Rows labelled -1 are left out. Scores compare clusters with each other, so none has a meaning
where there is one cluster (or none), or as many clusters as rows: they are then NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.contingency import Labels, whole_labels
from shoal.clustering.grouping import present_groups
from shoal.clustering.inputs import features_from
from shoal.clustering.parameters import Array
from shoal.clustering.rows import Metric, Rows, central_point, draw_rows, invalid_features_error, squared_distances
from shoal.errors import UserError

_READ = 2**18
_CANCELLED = 1e-13
"""Of squared distances by products, the share of the squared lengths that rounding may make of 0."""


def silhouette(
    features: Array | Tensor,
    labels: Labels,
    *,
    metric: Metric,
    generator: torch.Generator | None = None,
    n_rows: int | None = None,
) -> float:
    """Mean of (b − a) / max(a, b) over rows, in [-1, 1]: 1 is best, 0 is a draw (Rousseeuw 1987).

    a is the mean distance of a row to the others of its cluster, b that to the rows of the nearest other cluster. A
    row alone in its cluster counts as 0, as does one at distance 0 from both. Time is quadratic in the rows.

    Args:
        features: (n, d), an array or a tensor on any device.
        labels: cluster of each row, any numbers or names; negative leaves a row out.
        metric: distance ‖x − y‖ or 1 − cos.
        generator: draws the sample; needed with ``n_rows``.
        n_rows: how many rows to sample; the others are then left out altogether. None: all.

    Returns:
        The mean silhouette; NaN with one cluster, or as many as (sampled) rows.

    Raises:
        UserError: NaN, infinity, a zero vector under the cosine; a sample smaller than 1 or without a generator.
    """
    features, labels = _checked(features, labels)
    kept = (labels >= 0).nonzero()[:, 0]
    if n_rows is not None:
        if n_rows < 1 or generator is None:
            raise UserError(f"a sample of n_rows={n_rows} needs at least one row and a generator that draws it.")
        kept = kept[draw_rows(len(kept), n_rows, generator).to(kept.device)]
    present, clusters, sizes = torch.unique(labels[kept], return_inverse=True, return_counts=True)
    if not 1 < len(present) < len(kept):
        return torch.nan
    rows = Rows(features, metric, dtype=torch.float64)
    middle = central_point(rows, kept)
    step = _step(rows, len(sizes))
    total = 0.0
    for start in range(0, len(kept), step):
        total += float(_silhouettes(rows, middle, kept, clusters, sizes, slice(start, start + step)).sum())
    return _finite(total / len(kept), features, labels)


def davies_bouldin(features: Array | Tensor, labels: Labels, *, metric: Metric = "euclidean") -> float:
    """Mean over clusters i of max_j (s_i + s_j) / ‖μ_i − μ_j‖, from 0, which is best (Davies and Bouldin 1979).

    s is the mean distance of a cluster's rows to their mean μ. Clusters with the same mean are not compared.

    Args:
        features: (n, d), an array or a tensor on any device.
        labels: cluster of each row, any numbers or names; negative leaves a row out.
        metric: "cosine" takes the rows at unit length; distances are Euclidean in either case.

    Returns:
        The score; NaN with one cluster, or as many as rows.

    Raises:
        UserError: NaN, infinity, a zero vector under the cosine.
    """
    features, labels = _checked(features, labels)
    groups = _Groups.of(features, labels, metric)
    if not groups.comparable:
        return torch.nan
    k, d = groups.means.shape
    step = max(1, 2**20 // max(k, d))
    worst = [_worst(groups, slice(start, start + step)) for start in range(0, k, step)]
    return _finite(float(torch.cat(worst).mean()), features, labels)


def calinski_harabasz(features: Array | Tensor, labels: Labels, *, metric: Metric = "euclidean") -> float:
    """Variance between clusters over variance within them; more is better (Caliński and Harabasz 1974).

    (Σ_i n_i‖μ_i − μ‖² / (k − 1)) / (Σ_x ‖x − μ_i(x)‖² / (n − k)); 1 if all rows sit on the mean of their cluster.

    Args:
        features: (n, d), an array or a tensor on any device.
        labels: cluster of each row, any numbers or names; negative leaves a row out.
        metric: "cosine" takes the rows at unit length; distances are Euclidean in either case.

    Returns:
        The score; NaN with one cluster, or as many as rows.

    Raises:
        UserError: NaN, infinity, a zero vector under the cosine.
    """
    features, labels = _checked(features, labels)
    groups = _Groups.of(features, labels, metric)
    if not groups.comparable:
        return torch.nan
    n, k = int(groups.sizes.sum()), len(groups.sizes)
    middle = (groups.sizes[:, None] * groups.means).sum(0) / n
    between = float((groups.sizes * (groups.means - middle).square().sum(1)).sum())
    within = float(groups.scatter.sum())
    score = between / within * (n - k) / (k - 1) if within else 1.0
    return _finite(score, features, labels)


def _checked(features: Array | Tensor, labels: Labels) -> tuple[Float[Tensor, "n d"], Int64[Tensor, "n"]]:
    rows, numbers = features_from(features), torch.as_tensor(whole_labels(labels)[0])
    if len(rows) != len(numbers):
        raise UserError(f"{len(rows)} rows of features and {len(numbers)} labels: give one label for each row.")
    return rows, numbers.long().to(rows.device)


def _step(rows: Rows, n_columns: int) -> int:
    """How many rows to take at a time where ``n_columns`` numbers are made of each."""
    values, most = (2**24, 4096) if rows.features.is_cuda else (2**20, 1024)
    return max(1, min(most, values // max(n_columns, rows.features.shape[1])))


def _silhouettes(
    rows: Rows,
    middle: Float64[Tensor, "d"],
    kept: Int64[Tensor, "m"],
    clusters: Int64[Tensor, "m"],
    sizes: Int64[Tensor, "k"],
    part: slice,
) -> Float64[Tensor, "b"]:
    """Silhouettes of a part of the rows that are kept, from their distances to all of these."""
    x, own = rows[kept[part]] - middle, clusters[part]
    sums, own_lengths = x.new_zeros(len(sizes), len(x)), x.square().sum(1)
    step = _step(rows, len(x))
    for start in range(0, len(kept), step):
        points = rows[kept[start : start + step]] - middle
        lengths = points.square().sum(1, keepdim=True)
        squared = squared_distances(points, x).add_(lengths)
        squared.masked_fill_(squared <= _CANCELLED * (lengths + own_lengths), 0)
        sums.index_add_(0, clusters[start : start + step], rows.distance(squared))
    mean = sums / sizes[:, None]
    mean.scatter_(0, own[None], torch.inf)
    others = sizes[own] - 1
    a, b = sums.gather(0, own[None])[0] / others, mean.amin(0)
    value = (b - a) / torch.maximum(a, b)
    return value.where((others > 0) & (torch.maximum(a, b) != 0), 0.0)


def _finite(score: float, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"]) -> float:
    """The score, which only rows without distances make NaN."""
    if not math.isfinite(score):
        raise invalid_features_error(features[labels >= 0])
    return score


@dataclass(frozen=True, eq=False)
class _Groups:
    """Of each cluster that has rows: how many, their mean, and how far from it they are."""

    sizes: Int64[Tensor, "k"]
    means: Float64[Tensor, "k d"]
    spread: Float64[Tensor, "k"]
    """Mean distance to the mean."""
    scatter: Float64[Tensor, "k"]
    """Sum of the squared distances."""

    @property
    def comparable(self) -> bool:
        return 1 < len(self.sizes) < int(self.sizes.sum())

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], metric: Metric) -> _Groups:
        """Two passes: squared distances taken as differences of sums would cancel far from the origin."""
        present = present_groups(labels)
        rows = Rows(features, metric, dtype=torch.float64)

        def parts() -> Iterator[tuple[Int64[Tensor, "b"], Float64[Tensor, "b d"]]]:
            """Rows that count, and the places of their clusters."""
            for part, x in rows.chunks(1):
                kept = labels[part] >= 0
                yield torch.searchsorted(present, labels[part][kept]), x[kept]

        means = features.new_zeros(len(present), features.shape[1], dtype=torch.float64)
        sizes = torch.zeros_like(present)
        for own, x in parts():
            means.index_add_(0, own, x)
            sizes += torch.bincount(own, minlength=len(present))
        means /= sizes[:, None]
        spread, scatter = (means.new_zeros(len(present)) for _ in range(2))
        for own, x in parts():
            squared = (x - means[own]).square().sum(1)
            scatter.index_add_(0, own, squared)
            spread.index_add_(0, own, squared.sqrt())
        return cls(sizes, means, spread / sizes, scatter)


def _worst(groups: _Groups, part: slice) -> Float64[Tensor, "b"]:
    """Of each cluster in the part, the largest (s_i + s_j) / ‖μ_i − μ_j‖."""
    # By difference: two means that are the same must be at distance 0.
    apart = torch.cdist(groups.means[part], groups.means, compute_mode="donot_use_mm_for_euclid_dist")
    return ((groups.spread[part, None] + groups.spread) / apart.where(apart > 0, torch.inf)).amax(1)
