"""Expectation–maximisation for mixtures of Gaussians (Dempster, Laird and Rubin 1977), a chunk of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, directions, squared_distances
from shoal.errors import UserError

CovarianceType = Literal["full", "tied", "diag", "spherical"]


def covariance_shape(kind: CovarianceType, k: int, d: int) -> tuple[int, ...]:
    """Shape of the covariances of k components in d dimensions."""
    shapes: dict[CovarianceType, tuple[int, ...]] = {
        "full": (k, d, d),
        "tied": (d, d),
        "diag": (k, d),
        "spherical": (k,),
    }
    return shapes[kind]


_CANCELS = 1e-10
"""Smallest variance, as a share of the largest squared mean, that differences of squares leave six digits of."""

LITTLE = 10 * torch.finfo(torch.float64).eps
"""Added to the weight of each component, so that an empty one has a finite log weight."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Weighted Gaussians, in the coordinates of some ``Rows``."""

    weights: Float64[Tensor, "k"]
    means: Float64[Tensor, "k d"]
    covariances: Float64[Tensor, "..."]
    """full (k, d, d), tied (d, d), diag (k, d), spherical (k)."""
    kind: CovarianceType

    def log_joint(self, x: Float64[Tensor, "b d"]) -> Float64[Tensor, "b k"]:
        """Log w_k + log N(x | mean k, covariance k) for each row and component.

        Raises:
            UserError: a covariance is not positive definite.
        """
        if self.kind == "full":
            pairs = zip(self.means, self.whitening, strict=True)
            squared = torch.stack([((x - mean) @ white).square().sum(1) for mean, white in pairs], 1)
        elif self.kind == "tied" and self.far_apart:
            squared = torch.stack([((x - mean) @ self.whitening).square().sum(1) for mean in self.means], 1)
        elif self.kind == "tied":
            white = x @ self.whitening
            squared = squared_distances(white, self.means @ self.whitening) + white.square().sum(1, keepdim=True)
        elif self.far_apart:
            pairs = zip(self.means, self.whitening, strict=True)
            squared = torch.stack([((x - mean) * scale).square().sum(1) for mean, scale in pairs], 1)
        else:
            precisions = self.whitening.square()
            squared = x.square() @ precisions.T - 2 * x @ (self.means * precisions).T
            squared += (self.means.square() * precisions).sum(1)
        constant = self.weights.log() + self.log_determinant - x.shape[1] / 2 * math.log(2 * math.pi)
        return constant - squared.clamp_(min=0) / 2

    @cached_property
    def far_apart(self) -> bool:
        """Whether means are so far from each other that squares about one origin lose the variances' digits."""
        variances = self.covariances
        if self.kind in ("full", "tied"):
            variances = variances.diagonal(dim1=-2, dim2=-1)
        return bool(variances.amin() < _CANCELS * self.means.square().amax())

    @cached_property
    def whitening(self) -> Float64[Tensor, "..."]:
        """Maps x − mean to a standard normal: factors (k, d, d) or (d, d), or scales (k, d)."""
        if self.kind in ("full", "tied"):
            lower, failed = torch.linalg.cholesky_ex(self.covariances)
            _check_definite(failed != 0)
            identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
            inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
            return inverse.mT
        variances = self.covariances if self.kind == "diag" else self.covariances[:, None].expand_as(self.means)
        _check_definite(~(variances > 0))
        return variances.rsqrt()

    @cached_property
    def log_determinant(self) -> Float64[Tensor, "*k"]:
        """Log determinant of each whitening, (k), or of the shared one, ()."""
        scales = self.whitening
        if self.kind in ("full", "tied"):
            scales = scales.diagonal(dim1=-2, dim2=-1)
        return scales.log().sum(-1)


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of a run of EM."""

    mixture: Mixture
    lower_bound: float
    """Mean over the rows of the log density under ``mixture``."""
    bounds: list[float]
    """Those of all mixtures that were tried."""
    converged: bool


class _Moments:
    """Sums over rows, weighted by responsibilities, from which the M-step makes the next mixture."""

    def __init__(self, reference: Float64[Tensor, "k d"], kind: CovarianceType, *, far_apart: bool) -> None:
        """``reference``: points near the means, about which squares are summed where these would cancel."""
        k, d = reference.shape
        self.reference, self.kind = reference, kind
        # About one origin for all components, sums are products of matrices, several times as fast.
        self.about_reference = far_apart or kind == "full"
        self.counts = reference.new_zeros(k)
        self.moves = torch.zeros_like(reference)
        self.sums = torch.zeros_like(reference)
        self.products = reference.new_zeros({"full": (k, d, d), "tied": (d, d)}.get(kind, (k, d)))

    def add(self, x: Float64[Tensor, "b d"], shares: Float64[Tensor, "b k"]) -> None:
        """Add rows."""
        self.counts += shares.sum(0)
        self.sums += shares.T @ x
        if self.about_reference:
            for j, point in enumerate(self.reference):
                self._add_about(j, x - point, shares[:, j])
        elif self.kind == "tied":
            self.products.addmm_(x.T, x)
        else:
            self.products.addmm_(shares.T, x.square())

    def gather(self, shards: Shards) -> None:
        """Add the rows of all ranks."""
        self.counts, self.moves, self.sums, self.products = map(
            shards.sum, (self.counts, self.moves, self.sums, self.products)
        )

    def _add_about(self, j: int, away: Float64[Tensor, "b d"], shares: Float64[Tensor, "b"]) -> None:
        self.moves[j] += shares @ away
        if self.kind == "full":
            self.products[j].addmm_((away * shares[:, None]).T, away)
        elif self.kind == "tied":
            self.products.addmm_((away * shares[:, None]).T, away)
        else:
            self.products[j] += shares @ away.square()

    def mixture(self, reg_covar: float, metric: Metric) -> Mixture:
        """The M-step; an empty component keeps the mean of its reference.

        For the cosine, means are scaled to unit length and covariances are taken about them.
        """
        counts = self.counts + LITTLE
        moves = self.moves if self.about_reference else self.sums - self.counts[:, None] * self.reference
        move = moves / counts[:, None]
        means = self.reference + move
        weights = counts / counts.sum()
        about = move if self.about_reference else means  # the means less the origin of the squares
        if self.kind == "full":
            covariances = self.products / counts[:, None, None] - about[:, :, None] * about[:, None, :]
        elif self.kind == "tied":
            covariances = self.products / counts.sum() - (weights[:, None] * about).T @ about
        else:
            sums = self.moves if self.about_reference else self.sums
            squares = self.products - 2 * about * sums + self.counts[:, None] * about.square()
            covariances = (squares / counts[:, None]).clamp_(min=0)
        if metric == "cosine":
            away, means = means, directions(means, self.reference)
            covariances = covariances + self._of_moves(weights, away - means)
        if self.kind == "spherical":
            covariances = covariances.mean(1)
        if self.kind in ("full", "tied"):
            covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
        else:
            covariances += reg_covar
        return Mixture(weights, means, covariances, self.kind)

    def _of_moves(self, weights: Float64[Tensor, "k"], moves: Float64[Tensor, "k d"]) -> Float64[Tensor, "..."]:
        """Growth of covariances that are taken about points moved away from the means."""
        if self.kind == "full":
            return moves[:, :, None] * moves[:, None, :]
        if self.kind == "tied":
            return (weights[:, None] * moves).T @ moves
        return moves.square()


def mixture_of(
    rows: Rows,
    labels: Int64[Tensor, "n"],
    centers: Float64[Tensor, "k d"],
    kind: CovarianceType,
    reg_covar: float,
    shards: Shards = LOCAL,
) -> Mixture:
    """The Gaussians of clusters: an M-step with hard assignments.

    An empty cluster keeps its centre as its mean.
    """
    k = len(centers)
    return mixture_from(rows, lambda part: one_hot(labels[part], k).double(), centers, kind, reg_covar, shards)


Shares = Callable[[slice], Float64[Tensor, "b k"]]
"""Of a slice of rows, the share of each component in each row."""


def mixture_from(
    rows: Rows,
    shares: Shares,
    reference: Float64[Tensor, "k d"],
    kind: CovarianceType,
    reg_covar: float,
    shards: Shards = LOCAL,
) -> Mixture:
    """The Gaussians of shares of rows: an M-step; an empty component has the mean of its reference."""

    def mixture(*, far_apart: bool) -> Mixture:
        moments = _Moments(reference, kind, far_apart=far_apart)
        for part, x in rows.chunks(len(reference)):
            moments.add(x, shares(part))
        moments.gather(shards)
        return moments.mixture(reg_covar, rows.metric)

    found = mixture(far_apart=False)
    return mixture(far_apart=True) if found.far_apart and kind != "full" else found


def expectation_maximisation(
    rows: Rows,
    start: Mixture,
    *,
    reg_covar: float,
    tol: float,
    max_iter: int,
    continued: bool = False,
    shards: Shards = LOCAL,
) -> Fit:
    """EM in log space from ``start``, until an update raises the bound by no more than ``tol``.

    That last update is discarded (as in the published code), so the bound is that of the mixture returned, and the
    best of the run: ``reg_covar`` and means of unit length can make an update lower it.

    Args:
        rows: the data, or this rank's share of it, in float64.
        start: the initial mixture.
        reg_covar: added to the variances.
        tol: smallest gain of the bound, the mean log density, that justifies another update.
        max_iter: the most mixtures whose bound is computed.
        continued: whether ``start`` was tried in an earlier run, so that only its updates count.
        shards: whether each rank holds a share.

    Raises:
        UserError: a covariance is not positive definite.
    """
    mixture, best, bound = start, start, -math.inf
    bounds: list[float] = []
    for number in range(continued + max_iter):
        found, update = _step(rows, mixture, reg_covar, shards)
        if number >= continued:
            bounds.append(found)
        if found - bound <= tol:
            return Fit(best, bound, bounds, True)
        mixture, best, bound = update, mixture, found
    return Fit(best, bound, bounds, False)


def _step(rows: Rows, mixture: Mixture, reg_covar: float, shards: Shards) -> tuple[float, Mixture]:
    """Bound of a mixture (E-step) and the next mixture (M-step), in one pass over the rows."""
    moments = _Moments(mixture.means, mixture.kind, far_apart=mixture.far_apart)
    total = mixture.weights.new_zeros(())
    for _, x in rows.chunks(len(mixture.means)):
        joint = mixture.log_joint(x)
        density = joint.logsumexp(1, keepdim=True)
        total += density.sum()
        moments.add(x, (joint - density).exp_())
    moments.gather(shards)
    return float(shards.sum(total)) / shards.total(len(rows)), moments.mixture(reg_covar, rows.metric)


def _check_definite(failed: Tensor) -> None:
    if failed.any():
        raise UserError(
            "Fitting the mixture model failed because some components have ill-defined empirical covariance (for "
            "instance caused by singleton or collapsed samples). Try to decrease the number of components, increase "
            "reg_covar, or scale the input data."
        )
