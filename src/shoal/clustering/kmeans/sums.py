"""Sums of the rows of each cluster, kept up to date as rows move."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class ClusterSums:
    """Weighted sum and weight of each cluster's rows.

    In float64, because thousands of rows come and go, and a GPU adds in any order.
    """

    def __init__(self, n_clusters: int, d: int, device: torch.device) -> None:
        self.sums = torch.zeros(n_clusters, d, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n_clusters, dtype=torch.float64, device=device)

    def move(
        self,
        x: Float[Tensor, "m d"],
        old: Int64[Tensor, "m"],
        new: Int64[Tensor, "m"],
        weights: Float[Tensor, "m"] | None,
    ) -> None:
        """Move rows from their old clusters, if they had one (-1: none), to the new ones."""
        x, ones = x.double(), torch.ones(len(x), dtype=torch.float64, device=x.device)
        weights = ones if weights is None else weights.double()
        if weights is not ones:
            x = x * weights[:, None]
        self.sums.index_add_(0, new, x)
        self.counts.index_add_(0, new, weights)
        had = old >= 0
        if not had.all():
            x, weights, old = x[had], weights[had], old[had]
        self.sums.index_add_(0, old, x, alpha=-1)
        self.counts.index_add_(0, old, weights, alpha=-1)
