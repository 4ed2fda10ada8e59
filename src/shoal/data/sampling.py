"""The order in which an epoch visits the images."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def shuffled(n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
    """Every image once, in random order."""
    return torch.randperm(n, generator=generator, device=generator.device)


def equal_clusters(labels: Int64[Tensor, "n"], generator: torch.Generator) -> Int64[Tensor, "n"]:
    """As many images, drawn with replacement so that every cluster that has images is seen equally often.

    An image weighs the inverse of its cluster's size (ProPos' ``data_resample``); images of no cluster (−1) together
    weigh as much as one cluster.
    """
    _, cluster, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    weights = 1.0 / sizes[cluster].double()
    # Inverse transform sampling: torch.multinomial stops at 2**24 categories.
    edges = weights.cumsum(0)
    draws = torch.rand(len(labels), generator=generator, dtype=torch.float64, device=generator.device)
    return torch.searchsorted(edges, draws * edges[-1]).clamp(max=len(labels) - 1)
