"""Peaks of the density of rows, and how deep the valleys between them are."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

LINKS = 3
"""Neighbours across a valley before two peaks count as joined there: a single row astray joins nothing."""

DEEPEST = 20.0
"""Standard errors at which depths are cut off."""


def valley_depths(
    points: Float[Tensor, "n d"], index: Int64[Tensor, "n r"], distances: Float64[Tensor, "n r"], k: int
) -> Float64[Tensor, "v"]:
    """The valleys that separate each peak of the density from higher ones, in standard errors, deepest first.

    The log density of a row is −d log r, r being the distance to its k-th neighbour and d the intrinsic dimension
    (Levina and Bickel 2005). In the order of falling density each row joins its denser neighbours; where two peaks
    meet, the lower one has its valley: the difference between its log density and the one there (the persistence of
    ToMATo, Chazal, Guibas, Oudot and Skraba 2013). Peaks that never meet are separated by the gap between them. The
    standard error is 1/√k (as d'Errico, Facco, Laio and Rodriguez 2021), times ``_spread``.

    Args:
        points: the rows.
        index: their nearest neighbours, at least k.
        distances: to these; 2k of them or as many as there are.
        k: number of neighbours.
    """
    dimension, density, scale = _log_density(distances, k)
    fewest = max(k // 2, min(5, k))
    falls, groups = _join(index[:, :k], density)
    depths = [fall for fall, size in falls if size >= fewest]
    depths += _gaps(points, groups, density, dimension, fewest)
    return (torch.tensor(depths, dtype=torch.float64) * scale).clamp(0, DEEPEST).sort(descending=True).values


def valley_groups(
    index: Int64[Tensor, "n r"], distances: Float64[Tensor, "n r"], k: int, depth: float
) -> Int64[Tensor, "n"]:
    """The group of each row: valleys deeper than ``depth`` standard errors, and gaps, separate groups."""
    _, density, scale = _log_density(distances, k)
    return _join(index[:, :k], density, depth / scale)[1]


def _log_density(distances: Float64[Tensor, "n r"], k: int) -> tuple[float, Float64[Tensor, "n"], float]:
    """Intrinsic dimension, the log density of each row but for a constant, and what makes it standard errors."""
    dimension = intrinsic_dimension(distances[:, :k])
    growth = distances[:, min(2 * k, distances.shape[1]) - 1] / distances[:, k - 1]
    wider = math.log(2) / max(float(growth.log().median()), 1e-3)
    density = -dimension * distances[:, k - 1].log()
    return dimension, density, math.sqrt(k) / _spread(min(dimension, wider))


def intrinsic_dimension(distances: Float64[Tensor, "n k"]) -> float:
    """Median over rows of (k − 2) / Σ log(r_k / r_j): how the number of rows grows with distance."""
    ratios = (distances[:, -1:] / distances[:, :-1]).log().sum(1)
    return max(1.0, distances.shape[1] - 2) / max(float(ratios.median()), 1e-3)


def _spread(dimension: float) -> float:
    """By how much valleys of chance exceed the standard error, a little: on a line all fluctuations are in the way.

    Fitted to rows without groups (rings, lines, cubes and Gaussians in 1 to 100 dimensions): divided by this, the
    valleys of chance are distributed as the absolute value of a standard normal, or less.
    """
    return 1 + 0.6 * min(1.0, math.pow(2 / dimension, 1.5))


def _join(
    index: Int64[Tensor, "n k"], density: Float64[Tensor, "n"], deepest: float = math.inf
) -> tuple[list[tuple[float, int]], Tensor]:
    """Where each peak meets a higher one: by how much the log density falls, and how many rows the lower one has.

    Also the group of each row in the end: all that are connected by neighbours, with no fall of more than ``deepest``.
    """
    n, k = index.shape
    rank = torch.empty(n, dtype=torch.int64)
    rank[density.argsort(descending=True, stable=True)] = torch.arange(n)
    ends = torch.stack([torch.arange(n).repeat_interleave(k), index.flatten()])
    ends = torch.unique(rank[ends].sort(0).values.flip(0), dim=1)  # later and earlier row, in order of the later
    height = density.sort(descending=True, stable=True).values.tolist()
    top, size, links = list(range(n)), [1] * n, dict[tuple[int, int], int]()

    def root(row: int) -> int:
        while top[row] != row:
            top[row] = top[top[row]]
            row = top[row]
        return row

    falls = []
    for later, earlier in zip(*ends.tolist(), strict=True):
        high, low = sorted((root(later), root(earlier)))
        if high == low:
            continue
        if low != later:
            links[high, low] = links.get((high, low), 0) + 1
            if size[low] >= LINKS and (links[high, low] < LINKS or height[low] - height[later] > deepest):
                continue
            falls.append((height[low] - height[later], size[low]))
        top[low] = high
        size[high] += size[low]
    groups = torch.tensor([root(row) for row in range(n)])
    return falls, groups[rank]


def _gaps(
    points: Float[Tensor, "n d"],
    groups: Int64[Tensor, "n"],
    density: Float64[Tensor, "n"],
    dimension: float,
    fewest: int,
) -> list[float]:
    """Of each group but that of the highest peak, how far the log density falls at the gap to the nearest other.

    The gap is as wide as its third-nearest row is far from other groups.
    """
    highest = groups[density.argmax()]
    present, sizes = torch.unique(groups, return_counts=True)
    gaps = []
    for group in present[(sizes >= fewest) & (present != highest)]:
        inside = groups == group
        # In float32, products would find no distance between groups that lie side by side far from the others.
        across = torch.cdist(points[inside].double(), points[~inside].double()).amin(1)
        width = float(across.kthvalue(min(LINKS, len(across))).values)
        gaps.append(float(density[inside].max()) + dimension * math.log(max(width, 1e-300)))
    return gaps
