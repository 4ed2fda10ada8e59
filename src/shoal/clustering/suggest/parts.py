"""Whether a group is two that overlap, with no valley between them: two Gaussians describe it better than one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from shoal.clustering.mixtures.em import CovarianceType, Mixture, expectation_maximisation, mixture_of
from shoal.clustering.rows import Rows
from shoal.errors import UserError

ROWS = 2000
"""The most rows of a group that are looked at."""

PER_AXIS = 10
"""Rows of a group for each principal component that is looked at."""

AXES = 8
"""The most principal components."""

STARTS = 2
"""The most principal components at whose medians the group is cut to start."""

FAR_AXES = 4
"""Components from which a few rows far from the others are looked for: in fewer, stray rows meet by chance."""

FEWEST = 5
"""Rows of the smaller part; if it has a covariance of its own, twice as many as that needs."""

APART = 2.0
"""Distance of the two means in deviations below which two Gaussians are one peak (Ashman, Bird and Zepf 1994)."""

STRONG = 10.0
"""Difference of Bayesian information criteria that is very strong evidence (Kass and Raftery 1995)."""

REGULARISED = 1e-3
"""Added to variances, as a share of those of the whole group: a Gaussian must not shrink to a few rows."""

TOL, MAX_ITER = 1e-3, 100


def looks_like_two(points: Float[Tensor, "n d"]) -> bool:
    """Whether there is very strong evidence that the rows are two Gaussian groups rather than one.

    Compared are one Gaussian, and two with covariances of their own or the same, whose means are at least two
    deviations apart, by the Bayesian information criterion, in as many principal components as the rows allow. A bent
    group looks like two as well: a crescent is more like two Gaussians than like one.
    """
    x = _whitened(points[:: -(-len(points) // ROWS)].double())
    n, axes = x.shape
    if not axes:
        return False
    rows = Rows(x, "euclidean", dtype=torch.float64)
    one = mixture_of(rows, torch.zeros(n, dtype=torch.int64), x.new_zeros(1, axes), "full", REGULARISED)
    enough = -2 * float(one.log_joint(x).sum()) - STRONG
    own = axes * (axes + 1) / 2  # parameters of a covariance
    return any(
        -2 * n * bound + (axes + 1 + (own if two.kind == "full" else 0)) * math.log(n) < enough
        for two, bound in _pairs(rows, x)
        if float(two.weights.min()) * n >= (2 * (axes + 1) if two.kind == "full" else FEWEST) and _apart(two) >= APART
    )


def _whitened(points: Float64[Tensor, "n d"]) -> Float64[Tensor, "n a"]:
    """The leading principal components, at deviation 1; none if there are too few rows."""
    x = points - points.mean(0)
    variances, directions = torch.linalg.eigh(x.T @ x / len(x))
    axes = min(x.shape[1], AXES, len(x) // PER_AXIS)
    kept = variances.argsort(descending=True)[:axes]
    kept = kept[variances[kept] > 1e-12 * variances.max()]
    components: Tensor = x @ directions[:, kept] / variances[kept].sqrt()
    return components


def _pairs(rows: Rows, x: Float64[Tensor, "n a"]) -> Iterator[tuple[Mixture, float]]:
    """Two Gaussians and the mean log density of the rows, from several starts."""
    kinds: tuple[CovarianceType, ...] = ("full", "tied")
    cuts = [x[:, axis] > x[:, axis].median() for axis in range(min(STARTS, x.shape[1]))]
    if x.shape[1] >= FAR_AXES:
        lengths = torch.linalg.vector_norm(x, dim=1)
        cuts.append(torch.linalg.vector_norm(x - x[lengths.argmax()], dim=1) < lengths)
    for labels in (cut.long() for cut in cuts if cut.any() and not cut.all()):
        centers = torch.stack([x[labels == side].mean(0) for side in (0, 1)])
        for kind in kinds:
            start = mixture_of(rows, labels, centers, kind, REGULARISED)
            try:
                fit = expectation_maximisation(rows, start, reg_covar=REGULARISED, tol=TOL, max_iter=MAX_ITER)
            except UserError:  # a covariance that is not positive definite
                continue
            yield fit.mixture, fit.lower_bound


def _apart(two: Mixture) -> float:
    """Distance of the means, in deviations of the mean of both covariances.

    Rows strewn about a group are a wide Gaussian about a narrow one, with means not far apart by this measure.
    """
    within = two.covariances.mean(0) if two.kind == "full" else two.covariances
    between = two.means[0] - two.means[1]
    return float((between @ torch.linalg.solve(within, between)).sqrt())
