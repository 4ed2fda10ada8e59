"""A feature matrix as k-means and mixtures see it, a chunk at a time, so that no second copy of it is ever held."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.errors import UserError

Metric = Literal["euclidean", "cosine"]


class Rows:
    """Rows in ``dtype`` at least: at unit length for the cosine, else less ``shift``.

    Both metrics are then one problem, squared Euclidean distance: of unit vectors, 1 − cos = ‖x − y‖² / 2.
    Subtracting a point amid the data keeps ‖x‖² − 2x·y + ‖y‖² exact in float32 for data far from the origin.
    """

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        metric: Metric,
        shift: Float[Tensor, "d"] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if metric not in get_args(Metric):
            raise UserError(f"there is no metric {metric!r}: give one of {', '.join(get_args(Metric))}.")
        self.features = features.detach()
        self.metric = metric
        self.dtype = torch.promote_types(features.dtype, dtype)
        self.shift = features.new_zeros(features.shape[1]) if shift is None else shift
        self.shift = self.shift.to(self.dtype)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Int64[Tensor, "*m"] | slice) -> Float[Tensor, "*m d"]:
        return self.prepare(self.features[index])

    def prepare(self, x: Float[Tensor, "*m d"]) -> Float[Tensor, "*m d"]:
        """Vectors (centres, say) in the coordinates of the rows; a zero vector has no cosine: NaN."""
        x = x.to(self.dtype)
        if self.metric == "cosine":
            length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x / length
        return x - self.shift

    def chunks(self, n_columns: int) -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        """Which rows, and the rows; ``n_columns`` is how many numbers are made of each."""
        # A chunk and what is made of it stay in a CPU's cache; a GPU wants enough to fill it.
        values = 2**24 if self.features.is_cuda else 2**20
        size = max(1, values // max(self.features.shape[1], n_columns))
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield part, self[part]

    @cached_property
    def squared_lengths(self) -> Float[Tensor, "n 1"]:
        """‖x‖² of each row."""
        lengths = self.shift.new_empty(len(self), 1)
        for part, x in self.chunks(1):
            lengths[part] = x.square().sum(1, keepdim=True)
        return lengths

    def moments(self) -> tuple[Float[Tensor, "d"], float]:
        """Mean of the rows, and their variance averaged over the dimensions.

        Raises:
            UserError: a value is NaN or infinite, or a row is zero and the metric the cosine.
        """
        total = self.shift.new_zeros(self.shift.shape, dtype=torch.float64)
        squares = total.clone()
        for _, x in self.chunks(1):
            x = x.double()
            total += x.sum(0)
            squares += x.square().sum(0)
        mean = total / len(self)
        variance = float((squares / len(self) - mean.square()).clamp(min=0).mean())
        if not torch.isfinite(total).all():
            raise unusable(self.features)
        return mean.to(self.dtype), variance

    def distance(self, squared: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
        """The metric's distance, from the squared Euclidean one between rows: ‖x − y‖ or 1 − cos."""
        return squared / 2 if self.metric == "cosine" else squared.sqrt()


def unusable(features: Float[Tensor, "n d"]) -> UserError:
    """Why there are no distances between these rows."""
    n_bad = int((~torch.isfinite(features)).any(1).sum())
    if n_bad:
        return UserError(
            f"{n_bad} of {len(features)} rows of features hold NaN or infinity: leave them out, or find what "
            "made them (a training that diverged, a division by zero)."
        )
    return UserError(
        "a row of features is zero and has no cosine: leave it out, use metric='euclidean', or find what made it (a "
        "training that diverged)."
    )


def squared_distances(x: Float[Tensor, "b d"], points: Float[Tensor, "m d"]) -> Float[Tensor, "b m"]:
    """‖x − y‖² for all pairs, less the ‖x‖² that the nearest point does not depend on."""
    return torch.addmm(points.square().sum(1), x, points.T, alpha=-2)
