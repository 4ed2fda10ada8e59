"""What momentum methods learn from: a target network (an exponential moving average), and a queue of its latest
outputs.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Target(nn.Module):
    """A copy of ``online`` whose parameters follow it as an exponential moving average, without gradient.

    Batch-norm statistics are its own: they come from the images it sees, not from the online network.
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
        """ξ ← m·ξ + (1 − m)·θ for every parameter, at ``progress`` in [0, 1] of training (BYOL, eq. 1)."""
        momentum = momentum_at(progress, self.momentum, rising=self.rising)
        torch._foreach_lerp_(list(self.network.parameters()), list(online.parameters()), 1 - momentum)


def momentum_at(progress: float, base: float, *, rising: bool) -> float:
    """EMA momentum at ``progress`` in [0, 1] of training.

    Constant, or rising to 1 along a cosine: m = 1 − (1 − base)·(cos(π·progress) + 1)/2 (BYOL, section 3.2).
    """
    if not rising:
        return base
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


class Queue(nn.Module):
    """The latest ``length`` keys, of unit length, and the images they belong to (MoCo, arXiv 1911.05722, section 3.1).

    A ring buffer: a key overwrites the oldest, and the length need not be a multiple of the batch. It starts with
    random keys, of no image (−1). Every process pushes the keys of the global batch, so all hold the same queue.
    """

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.keys: Float[Tensor, "m d"]
        self.index: Int64[Tensor, "m"]
        self.head: Int64[Tensor, ""]
        self.register_buffer("keys", F.normalize(torch.randn(length, dim), dim=1))
        self.register_buffer("index", torch.full((length,), -1))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def enqueue(self, keys: Float[Tensor, "b d"], index: Int64[Tensor, "b"]) -> None:
        """Keep keys until the step is over: the queries of this step must not meet them."""
        self._waiting.append((keys.detach(), index))

    def flush(self) -> None:
        """Write the waiting keys to the ring, oldest first; of more than fit, the last remain."""
        for keys, index in self._waiting:
            self._push(keys, index)
        self._waiting.clear()

    def _push(self, keys: Float[Tensor, "b d"], index: Int64[Tensor, "b"]) -> None:
        length = len(self.keys)
        # The head stays on the device: reading it would synchronise with the GPU.
        places = (self.head + torch.arange(len(keys), device=self.head.device)) % length
        newest = slice(max(0, len(keys) - length), None)
        self.keys[places[newest]] = keys[newest].to(self.keys.dtype)
        self.index[places[newest]] = index[newest]
        self.head.add_(len(keys)).remainder_(length)
