"""A ring of the newest keys: negatives, or more members of a cluster, than one batch holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Queue(nn.Module):
    """The newest ``length`` keys of unit length, and which images they are of (MoCo, arXiv 1911.05722, section 3.1).

    First in, first out: a key overwrites the oldest. The ring wraps, so its length need not be a multiple of the
    batch. It starts with random keys, of no image (−1). Under several processes each pushes the keys of the world
    batch, so that all hold the same ring.
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
        """Let keys wait until the step is over: this step's own queries are not to meet them."""
        self._waiting.append((keys.detach(), index))

    def flush(self) -> None:
        """Let the waiting keys in at the head, in the order of their coming; of more than fit, the last stay."""
        for keys, index in self._waiting:
            self._push(keys, index)
        self._waiting.clear()

    def _push(self, keys: Float[Tensor, "b d"], index: Int64[Tensor, "b"]) -> None:
        length = len(self.keys)
        # The head stays on the device: reading it would make a step wait for the GPU.
        places = (self.head + torch.arange(len(keys), device=self.head.device)) % length
        newest = slice(max(0, len(keys) - length), None)
        self.keys[places[newest]] = keys[newest].to(self.keys.dtype)
        self.index[places[newest]] = index[newest]
        self.head.add_(len(keys)).remainder_(length)
