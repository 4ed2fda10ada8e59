"""A matrix that is read a batch at a time and never copied or converted whole."""

from __future__ import annotations

import mmap

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from shoal.clustering.inputs import Array, tensor_on

FROM_MAP = 256
"""Rows read from a map before its pages are given back: with each the system maps some 64 KiB around it."""


class Source:
    """Rows of an array or a tensor, of which only those asked for become floating point numbers."""

    def __init__(self, X: Shaped[Tensor, "n d"] | Array) -> None:
        self._map = None if isinstance(X, Tensor) else _read_only_map(X)
        # Integers become what scikit-learn makes of them in an array, and what torch makes of them in a tensor.
        self._float = torch.float32 if isinstance(X, Tensor) else torch.float64
        self._values = X.detach() if isinstance(X, Tensor) else _tensor(X)
        self.device = self._values.device

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: slice | Int64[Tensor, "b"]) -> Float[Tensor, "b d"]:
        if isinstance(index, slice):
            x = self._values[index]
        elif self._map is None:
            x = self._values.index_select(0, index.to(self.device))  # several times as fast as indexing
        else:
            starts = range(0, len(index), FROM_MAP)
            x = torch.cat([self._from_map(index[start : start + FROM_MAP]) for start in starts])
        self._give_back()
        return x if x.is_floating_point() else x.to(self._float)

    def _from_map(self, index: Int64[Tensor, "b"]) -> Shaped[Tensor, "b d"]:
        x: Tensor = self._values.index_select(0, index)
        self._give_back()
        return x

    def _give_back(self) -> None:
        """Pages of the map read so far, which would count as memory of this process until others need it."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def _tensor(X: Array) -> Shaped[Tensor, "n d"]:
    try:
        return tensor_on(X)
    except (TypeError, ValueError):  # bytes in another order, rows backwards: torch has no such tensors
        return tensor_on(np.ascontiguousarray(X, dtype=np.float64))


def _read_only_map(X: Array) -> mmap.mmap | None:
    """The memory map behind an array; none where a page that is given back might have been written to."""
    base: object = X
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):  # no such thing on Windows
        return None
    return base if memoryview(base).readonly else None
