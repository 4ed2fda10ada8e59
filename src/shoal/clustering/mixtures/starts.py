"""What a mixture of Gaussians starts from: clusters, rows, chance, or what a user gives."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from shoal.clustering.mixtures.em import CovarianceType, Mixture, covariance_shape, mixture_from
from shoal.clustering.parameters import Array, points_from
from shoal.clustering.rows import Rows
from shoal.errors import UserError


def random_mixture(rows: Rows, k: int, kind: CovarianceType, reg_covar: float, generator: torch.Generator) -> Mixture:
    """Gaussians of random shares of all rows."""
    seed = int(torch.randint(2**31, (), generator=generator))

    def shares(part: slice) -> Float64[Tensor, "b k"]:
        drawn = torch.rand(part.stop - part.start, k, generator=torch.Generator().manual_seed(seed + part.start))
        return (drawn / drawn.sum(1, keepdim=True)).double().to(rows.features.device)

    middle = torch.zeros(k, rows.features.shape[1], dtype=torch.float64, device=rows.features.device)
    return mixture_from(rows, shares, middle, kind, reg_covar)


def given_weights(given: Array | Tensor, k: int, device: torch.device) -> Float64[Tensor, "k"]:
    """``weights_init``.

    Raises:
        UserError: not (k,), outside [0, 1], or not of sum 1.
    """
    weights = points_from(given, "weights_init").to(device, torch.float64)
    _check_shape(weights, (k,), "weights")
    low, high = float(weights.min()), float(weights.max())
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"The parameter 'weights' should be in the range [0, 1], but goes from {low:.5f} to {high:.5f}."
        )
    if abs(float(weights.sum()) - 1) > 1e-6:
        raise UserError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")
    return weights


def given_covariances(
    given: Array | Tensor, kind: CovarianceType, k: int, d: int, device: torch.device
) -> Float64[Tensor, "..."]:
    """The covariances whose inverses are ``precisions_init``.

    Raises:
        UserError: another shape than that of the covariances, or not positive definite.
    """
    name = f"{kind} precision"
    precisions = points_from(given, "precisions_init").to(device, torch.float64)
    _check_shape(precisions, covariance_shape(kind, k, d), name)
    if kind in ("diag", "spherical"):
        if not bool((precisions > 0).all()):
            raise UserError(f"The parameter '{name}' should be positive")
        return 1 / precisions
    lower, failed = torch.linalg.cholesky_ex(precisions)
    if bool(failed.any()) or not torch.allclose(precisions, precisions.mT):
        raise UserError(f"The parameter '{name}' should be symmetric, positive-definite")
    return torch.cholesky_inverse(lower)


def given_means(given: Array | Tensor, k: int, d: int) -> Tensor:
    """``means_init``, in the coordinates of the features.

    Raises:
        UserError: not (k, d).
    """
    means = points_from(given, "means_init")
    _check_shape(means, (k, d), "means")
    return means


def _check_shape(values: Tensor, shape: tuple[int, ...], name: str) -> None:
    if values.shape != shape:
        raise UserError(f"The parameter '{name}' should have the shape of {shape}, but got {tuple(values.shape)}")
