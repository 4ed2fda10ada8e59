"""The images nearest to each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering import nearest_neighbours

N_NEIGHBOURS = 8


def nearest_images(features: Float[Tensor, "n d"]) -> Int64[Tensor, "n 8"]:
    """The eight rows nearest to each by Euclidean distance, the nearest first; −1 where there are fewer others."""
    n_found = min(N_NEIGHBOURS, len(features) - 1)
    if n_found < 1:
        return torch.full((len(features), N_NEIGHBOURS), -1)
    found, _ = nearest_neighbours(features, n_found, "euclidean")
    return F.pad(found, (0, N_NEIGHBOURS - n_found), value=-1)
