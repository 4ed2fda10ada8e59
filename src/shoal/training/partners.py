"""Views of neighbours: images that look alike in their pixels as positives of each other.

A network that learns from augmentations alone may see two ways to write a character as two characters, since none of
its views leads from one to the other. The nearest images by pixels do. A graph of nearest neighbours, as positives in
place of augmentations, is how SpectralNet learns its affinities (Shaham et al., arXiv 1801.01587, section 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal import distributed
from shoal.clustering.neighbours import nearest_neighbours
from shoal.data.augment import ViewConfig

SIDE = 16
"""Pixels are compared at no more than this height and width."""

_READ = 4096


def pixel_neighbours(pixels: UInt8[Tensor, "n 3 h w"], k: int) -> Int64[Tensor, "n k"]:
    """The k nearest others of each image by the Euclidean distance of pixels, nearest first; all ranks must call this.

    The first rank compares all pairs: O(n² · h · w).
    """
    if not distributed.is_first():
        return distributed.gather_uneven(torch.empty(0, k, dtype=torch.int64, device=pixels.device))
    parts = torch.split(pixels, _READ)
    grey = all(bool((part == part[:, :1]).all()) for part in parts)
    rows = torch.cat([_as_rows(part[:, :1] if grey else part) for part in parts])
    index, _ = nearest_neighbours(rows, k, "euclidean")
    return distributed.gather_uneven(torch.as_tensor(index))


def _as_rows(pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    height, width = pixels.shape[2:]
    small = F.interpolate(pixels.float() / 255, (min(height, SIDE), min(width, SIDE)), mode="area")
    return small.flatten(1)


def drawn_partners(
    neighbours: Int64[Tensor, "n k"], config: ViewConfig, generator: torch.Generator
) -> Int64[Tensor, "n"]:
    """For each image itself, or with probability ``neighbour_p`` one of its neighbours, all equally likely."""
    n, k = neighbours.shape
    device = generator.device
    chosen = torch.randint(k, (n, 1), generator=generator, device=device)
    taken = torch.rand(n, generator=generator, device=device) < config.neighbour_p
    return torch.where(taken, neighbours.gather(1, chosen)[:, 0], torch.arange(n, device=device))
