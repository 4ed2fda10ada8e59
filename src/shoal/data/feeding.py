"""Images of one part of an epoch after the other on the compute device, from wherever their pixels lie."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from shoal.data.threads import in_threads

Pixels: TypeAlias = UInt8[Tensor, "_ 3 _h _w"]
Rows: TypeAlias = Int64[Tensor, "_"]

_AHEAD = 2  # parts that are read and copied while a GPU works on the one before
_MAPS = Path("/proc/self/maps")  # where Linux lists what lies where in the memory of this process


def feed(pixels: Pixels, parts: Iterable[Rows], device: torch.device) -> Generator[Pixels, None, None]:
    """The images of each of ``parts`` in turn, on ``device``; the rows lie where the pixels do.

    For a GPU, images in memory or in a file are read and copied ahead by a thread, and no step waits for them. Close
    the generator where you may not take all of it (``contextlib.closing``): the thread ends then.
    """
    reader = _Reader(pixels)
    if pixels.device.type == device.type:
        return (reader.read(rows) for rows in parts)
    return _copied(reader, parts, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


class _Reader:
    """Reads images; of a file that is mapped into memory, those that are asked for and no more.

    Where a page of a map is not in memory, the system waits for it and for all around it: up to 8 MB for an image of
    12 KB, one image after the other. Told beforehand, it reads what is asked for and nothing else, all at once.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.shape = pixels.shape[1:]
        self._pixels = pixels
        self._between = pixels.stride(0)
        self._extent = 1 + sum((n - 1) * step for n, step in zip(self.shape, pixels.stride()[1:], strict=True))
        apart = self._extent <= self._between  # else each image is strewn over the file
        self._advise = _advice() if apart and _is_mapped(pixels) else None

    def read(self, rows: Rows, out: Pixels | None = None) -> Pixels:
        """A copy of these images, in ``out`` if it is given."""
        if self._advise:
            for row in rows.tolist():
                first = self._pixels.data_ptr() + row * self._between
                before = first % mmap.PAGESIZE
                self._advise(first - before, before + self._extent, mmap.MADV_WILLNEED)
        return torch.index_select(self._pixels, 0, rows, out=out)  # several times as fast as indexing


def _copied(reader: _Reader, parts: Iterable[Rows], stream: torch.cuda.Stream) -> Generator[Pixels, None, None]:
    """Images that a thread has read into pinned memory, and a stream beside that of the step has copied."""

    def fetch(rows: Rows) -> tuple[Pixels, torch.cuda.Event]:
        with torch.cuda.stream(stream):  # and on its GPU, for a new thread would take the first
            pinned = torch.empty(len(rows), *reader.shape, dtype=torch.uint8, pin_memory=True)
            images = reader.read(rows, pinned).to(stream.device, non_blocking=True)
            return images, stream.record_event()

    with closing(in_threads(fetch, parts, threads=1, ahead=_AHEAD)) as fetched:
        for images, copied in fetched:
            used_by = torch.cuda.current_stream(stream.device)
            used_by.wait_event(copied)
            images.record_stream(used_by)  # else a later copy could take their place while they are in use
            yield images


def _is_mapped(pixels: Pixels) -> bool:
    """Whether a file is mapped to where the pixels lie; Linux alone tells."""
    if pixels.device.type != "cpu" or not _MAPS.exists():
        return False
    for line in _MAPS.read_text().splitlines():
        span, _, _, _, inode, *_ = line.split()
        first, end = (int(address, 16) for address in span.split("-"))
        if first <= pixels.data_ptr() < end:
            return inode != "0"
    return False


def _advice() -> Callable[[int, int, int], int]:
    """The C library's ``madvise``: the ``mmap`` behind a tensor is out of reach."""
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return advise
