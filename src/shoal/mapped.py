"""Large arrays that take no memory: files mapped for reading, and scratch files that results are written to.

The pages of a map belong to the system, which drops them when memory is needed. Until then they count as memory of the
process, so whoever has gone through a large map releases them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

SMALL = 2**24
"""Bytes up to which an array stays in memory."""

AT_ONCE = 2**25
"""Bytes of a map that are read or written before its pages are released."""

_ROWS = 2**18
_TRIM_SECONDS = 5.0

_MAPS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Maps by the address of the tensor's storage on them, while there is one."""


def known_map(array: Shaped[np.ndarray, "..."], tensor: Tensor) -> Tensor:
    """Remember the read-only map that an array and a tensor on it lie in, if they do, so that it can be released."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and memoryview(base).readonly:  # a released page might have been written to
        _MAPS[tensor.untyped_storage().data_ptr()] = base
    return tensor


def is_known_map(tensor: Tensor) -> bool:
    """Whether the tensor lies in a map whose pages can be released."""
    return tensor.untyped_storage().data_ptr() in _MAPS


def release(*tensors: Tensor) -> None:
    """Give back the pages of maps; they are read again from the system's memory, or from the disk, when needed.

    Likewise, now and then, what the C library keeps of freed memory.
    """
    _trim()
    for tensor in tensors:
        if (found := _MAPS.get(tensor.untyped_storage().data_ptr())) is not None and hasattr(mmap, "MADV_DONTNEED"):
            found.madvise(mmap.MADV_DONTNEED)  # of a shared map, whose changes the system keeps


_trimmed = 0.0


def _trim() -> None:
    """Let glibc give back free pages, at most once in five seconds: it keeps those between small blocks that stay."""
    global _trimmed
    if time.monotonic() > _trimmed + _TRIM_SECONDS:
        _trimmed = time.monotonic()
        with suppress(AttributeError, OSError, TypeError):  # other systems have no such function
            ctypes.CDLL(None).malloc_trim(0)


def released(parts: Iterator[slice], *tensors: Tensor) -> Iterator[slice]:
    """Pass on slices of the rows of tensors, and release their pages whenever much has been gone through."""
    row = sum(each[:1].nbytes for each in tensors)
    seen = 0
    for part in parts:
        yield part
        seen += row * (part.stop - part.start)
        if seen > AT_ONCE:
            release(*tensors)
            seen = 0
    if row * len(tensors[0]) > AT_ONCE:
        release(*tensors)


def scratch(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros: in memory if it is small, else in a file without a name among the system's temporary ones.

    Without room for the file it is in memory too.
    """
    size = prod(shape) * dtype.itemsize
    if size > SMALL and hasattr(os, "posix_fallocate"):
        with suppress(OSError), tempfile.TemporaryFile() as file:
            os.posix_fallocate(
                file.fileno(), 0, size
            )  # a map of a file with holes would kill the process on a full disk
            found = mmap.mmap(file.fileno(), size)
            tensor = torch.frombuffer(found, dtype=dtype).view(*shape)
            _MAPS[tensor.untyped_storage().data_ptr()] = found
            return tensor
    return torch.zeros(*shape, dtype=dtype)


def by_parts(work: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """What ``work`` makes of the rows of some columns, a part of them at a time; of many rows it is a scratch file."""
    n = len(columns[0])
    found = work(*(each[:0] for each in columns))
    found = scratch((n, *found.shape[1:]), found.dtype)
    for part in released((slice(start, min(start + _ROWS, n)) for start in range(0, n, _ROWS)), found, *columns):
        found[part] = work(*(each[part] for each in columns))
    return found


class Spool:
    """Bytes in the order in which they come: in memory while they are few, then in a file without a name."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._file: Any = None
        self._n_filed = 0
        self._most = SMALL

    def __enter__(self) -> Spool:
        """Be written to."""
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()  # a map of it stays

    def write(self, data: bytes) -> None:
        """Add bytes; once there is no room on the disk, all are kept in memory."""
        self._kept += data
        if len(self._kept) <= self._most:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as the map
            rest = memoryview(self._kept)
            while len(rest):
                rest = rest[self._file.write(rest) :]
            self._n_filed += len(self._kept)
            self._kept = bytearray()
        except OSError:
            self._most = 2**62
            if self._file is not None:
                rest.release()
                if self._n_filed:
                    self._kept[:0] = self._map()
                self._file.close()
                self._file, self._n_filed = None, 0

    def array(self) -> UInt8[np.ndarray, "b"]:
        """All bytes; none can be added after."""
        if self._n_filed:
            self._most = -1
            self.write(b"")
        if not self._n_filed:
            return np.frombuffer(bytes(self._kept), np.uint8)
        return np.frombuffer(self._map(), np.uint8)

    def _map(self) -> mmap.mmap:
        """What is in the file."""
        return mmap.mmap(self._file.fileno(), self._n_filed, access=mmap.ACCESS_READ)
