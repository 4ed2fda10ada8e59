"""Sums of the rows of each cluster, kept up to date as rows move."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

FLUSH_AFTER = 8192
"""Rows added up in their own precision before the sum goes into float64: few enough to lose nothing that shows."""


class ClusterSums:
    """Weighted sum and weight of each cluster's rows.

    They are kept in float64, in which thousands of rows come and go without a trace. A CPU first adds some thousand
    rows in float32, which is several times as fast; a GPU adds float64 at once, where the order of its additions does
    not show.
    """

    def __init__(self, n_clusters: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
        self._sums = torch.zeros(n_clusters, d, dtype=torch.float64, device=device)
        self._recent = torch.zeros_like(self._sums, dtype=dtype if device.type == "cpu" else torch.float64)
        self._n_recent = 0
        self.counts = torch.zeros(n_clusters, dtype=torch.float64, device=device)

    def move(
        self,
        x: Float[Tensor, "m d"],
        old: Int64[Tensor, "m"],
        new: Int64[Tensor, "m"],
        weights: Float[Tensor, "m"] | None,
    ) -> None:
        """Take rows out of their old clusters, where they had one (-1: none), and into the new ones."""
        x = x if weights is None else x * weights[:, None]
        self._add(x, new, weights, 1)
        had = old >= 0
        if had.all():
            self._add(x, old, weights, -1)
        elif had.any():
            self._add(x[had], old[had], None if weights is None else weights[had], -1)

    @property
    def sums(self) -> Float64[Tensor, "k d"]:
        """Σ w x over the rows of each cluster."""
        self._flush()
        return self._sums

    def _add(
        self, x: Float[Tensor, "m d"], labels: Int64[Tensor, "m"], weights: Float[Tensor, "m"] | None, sign: int
    ) -> None:
        self._recent.index_add_(0, labels, x.to(self._recent.dtype), alpha=sign)
        self.counts += sign * torch.bincount(labels, weights, minlength=len(self.counts))
        self._n_recent += len(x)
        if self._n_recent > FLUSH_AFTER:
            self._flush()

    def _flush(self) -> None:
        if self._n_recent:
            self._sums += self._recent
            self._recent.zero_()
            self._n_recent = 0
