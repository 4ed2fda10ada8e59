"""Principal components of standardised rows, without a second copy of the rows or a matrix of features by features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shoal.clustering.rows import Rows

OVERSAMPLED = 16
ITERATIONS = 4
"""Dimensions beside those wanted, and products with the covariance, which leave no visible error (Halko, Martinsson and
Tropp 2011)."""

CONSTANT = 1e-6
"""A column that varies by less, as a share of its size, varies by rounding alone and is left as it is."""


@dataclass(frozen=True, eq=False)
class Components:
    """z = ((x − mean) / scale) · axes, the first components of columns of mean 0 and variance 1."""

    mean: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]
    axes: Float[Tensor, "d c"]

    def of(self, rows: Rows) -> Float[Tensor, "n c"]:
        """The components of each row."""
        found = rows.features.new_empty(len(rows), self.axes.shape[1], dtype=torch.float32)
        for part, z in _standardised(rows, self.mean, self.scale):
            found[part] = z @ self.axes
        return found


def principal_components(rows: Rows, most: int, generator: torch.Generator) -> Components:
    """The first ``most`` components, or as many as there are columns, by subspace iteration in float32.

    Args:
        rows: the data.
        most: how many components are wanted.
        generator: of the subspace with which it begins.
    """
    device, d = rows.features.device, rows.features.shape[1]
    mean, scale = _column_moments(rows)
    n_axes = min(d, most)
    start = torch.randn(d, min(d, n_axes + OVERSAMPLED), generator=generator).to(device)
    basis = torch.linalg.qr(start).Q
    for _ in range(ITERATIONS if basis.shape[1] < d else 0):
        product = torch.zeros_like(basis)
        for _, z in _standardised(rows, mean, scale):
            product += z.T @ (z @ basis)
        basis = torch.linalg.qr(product / len(rows)).Q
    within = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.float64, device=device)
    for _, z in _standardised(rows, mean, scale):
        inside = z @ basis
        within += (inside.T @ inside).double()
    axes = torch.linalg.eigh(within / len(rows)).eigenvectors.flip(1)[:, :n_axes]
    return Components(mean, scale, basis @ axes.float())


def _standardised(
    rows: Rows, mean: Float[Tensor, "d"], scale: Float[Tensor, "d"]
) -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
    for part, x in rows.chunks(1):
        yield part, ((x - mean) / scale).float()


def _column_moments(rows: Rows) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Mean and standard deviation of each column; of a constant one the deviation counts as 1."""
    pivot = rows[:1].mean(0)  # amid the data, so that sums of squares cancel little
    total = torch.zeros(len(pivot), dtype=torch.float64, device=pivot.device)
    squares = torch.zeros_like(total)
    for _, x in rows.chunks(1):
        away = (x - pivot).double()
        total += away.sum(0)
        squares += away.square().sum(0)
    away_mean = total / len(rows)
    deviation = (squares / len(rows) - away_mean.square()).clamp_(min=0).sqrt_()
    mean = pivot.double() + away_mean
    varies = deviation > CONSTANT * mean.abs()
    return mean.float(), deviation.where(varies, 1.0).float()
