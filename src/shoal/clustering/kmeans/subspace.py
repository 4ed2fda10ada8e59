"""The principal subspace of wide rows, in which many runs of k-means compete at a fraction of the cost.

The partition that is best on the first ⌈k / ε⌉ principal components costs at most 1 + ε times the best of all (Cohen,
Elder, Musco, Musco and Persu 2015, "Dimensionality reduction for k-means clustering and low rank approximation").
What remains outside is mostly noise, of which every run in all dimensions makes other optima.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shoal.clustering.kmeans.init import random_seeds, seeds
from shoal.clustering.kmeans.lloyd import lloyd
from shoal.clustering.rows import Rows

DIMENSIONS = 64
"""Of the subspace, or k if that is more."""

WIDE = 8
"""How many times the subspace's dimensions the rows and columns must be for a projection to pay."""

RUNS = 3
"""Runs in the subspace for each run that is asked for: all of them together cost less than the latter."""

TOLERANCE = 1e-4
"""A run ends when the squared moves of its centres sum to no more than this share of the variance of a dimension."""

PRODUCTS = 2
"""Products with the covariance after the first: the subspace need not be exact (Halko, Martinsson and Tropp 2011)."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """z = (x − mean) · axes / scale, the axes orthonormal."""

    mean: Float[Tensor, "d"]
    axes: Float[Tensor, "d c"]
    scale: float

    @classmethod
    def of(cls, rows: Rows, n_axes: int, generator: torch.Generator) -> Subspace:
        """The principal one, by subspace iteration in float32."""
        weights, d = rows.each_weight, rows.features.shape[1]
        mean, variance = rows.moments()
        basis = torch.randn(d, n_axes, generator=generator, device=generator.device).to(weights.device)
        found = cls(mean, basis, variance**0.5 or 1.0)
        for _ in range(1 + PRODUCTS):
            basis = torch.linalg.qr(basis).Q
            product = torch.zeros_like(basis)
            for part, x in rows.chunks(1):
                z = found.centred(x)
                product += z.T @ ((z @ basis) * weights[part, None].float())
            basis = product
        return cls(found.mean, torch.linalg.qr(basis).Q, found.scale)

    def centred(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Rows about the mean, of about unit variance in each dimension."""
        return ((x - self.mean) / self.scale).float()

    def project(self, rows: Rows) -> Rows:
        """The rows in the subspace, with their weights."""
        z = torch.empty(len(rows), self.axes.shape[1], device=rows.features.device)
        for part, x in rows.chunks(1):
            z[part] = self.centred(x) @ self.axes
        return Rows(z, "euclidean", weights=rows.weights)

    def lift(self, points: Float[Tensor, "k c"]) -> Float[Tensor, "k d"]:
        """Points of the subspace in the coordinates of the rows."""
        return self.mean + (points @ self.axes.T).to(self.mean.dtype) * self.scale


def is_wide(rows: Rows, n_clusters: int) -> bool:
    """Whether rows have enough dimensions for a projection to pay, and are enough to estimate a subspace."""
    return min(rows.features.shape) >= WIDE * max(DIMENSIONS, n_clusters)


def start_from_subspace(
    rows: Rows, n_clusters: int, n_init: int, generator: torch.Generator, *, max_iter: int, random: bool
) -> Float[Tensor, "k d"]:
    """Centres from which a single run starts: those of the best of three times ``n_init`` runs in the subspace.

    Args:
        rows: on which runs compete.
        n_clusters: k.
        n_init: runs that are asked for.
        generator: draws the subspace that the iteration starts from, and the seeds.
        max_iter: the most updates of the centres in a run.
        random: whether runs start from random rows, not from k-means++.
    """
    subspace = Subspace.of(rows, max(DIMENSIONS, n_clusters), generator)
    projected = subspace.project(rows)
    draw = random_seeds if random else seeds
    starts = draw(projected, n_clusters, RUNS * n_init, generator)
    runs = (lloyd(projected, start, max_iter=max_iter, tol=TOLERANCE) for start in starts)
    centers = subspace.lift(min(runs, key=lambda run: run.inertia).centers)
    if rows.metric == "cosine":
        centers = centers.where(centers.any(1, keepdim=True), rows[:1])  # zero has no direction
    return rows.prepare(centers + rows.shift)
