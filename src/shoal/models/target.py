"""The slow copy of a network that a momentum method learns from."""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Target(nn.Module):
    """A copy of ``online`` whose parameters follow it as an exponential moving average, without gradient.

    Batch-norm statistics are the copy's own: they come from what it sees, not from the online network's.
    """

    def __init__(self, online: nn.Sequential, momentum: float, *, rising: bool = False) -> None:
        super().__init__()
        self.momentum = momentum
        self.rising = rising
        self.network: nn.Sequential = copy.deepcopy(online).requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b ..."]) -> Float[Tensor, "b d"]:
        """Features of the slow network."""
        features: Tensor = self.network(images)
        return features

    @torch.no_grad()
    def follow(self, online: nn.Module, progress: float) -> None:
        """ξ ← m·ξ + (1 − m)·θ for every parameter, a share ``progress`` of training done (BYOL, eq. 1)."""
        momentum = momentum_at(progress, self.momentum, rising=self.rising)
        torch._foreach_lerp_(list(self.network.parameters()), list(online.parameters()), 1 - momentum)


def momentum_at(progress: float, base: float, *, rising: bool) -> float:
    """EMA momentum when a share ``progress`` of training is done.

    Constant, or rising to 1 along a cosine: m = 1 − (1 − base)·(cos(π·progress) + 1)/2 (BYOL, section 3.2).
    """
    if not rising:
        return base
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
