"""The order in which an epoch visits the images, and the pixels of its batches on the device."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal.data.threads import map_in_threads

Pixels: TypeAlias = UInt8[Tensor, "_ 3 _h _w"]
Rows: TypeAlias = Int64[Tensor, "_"]

_AHEAD = 2  # batches that are read and copied while a GPU works on the one before
_MAPS = Path("/proc/self/maps")  # Linux: the memory mappings of this process


def steps_of_epoch(n_clustered: int, n_others: int, batch_size: int) -> int:
    """Return the number of full batches in an epoch; leftover images are dropped.

    If there are images that are not clustered, each batch is half clustered ones and half others, and the epoch is one
    pass over the larger group.
    """
    if not n_others:
        return n_clustered // batch_size
    others = batch_size // 2
    return max(n_clustered // (batch_size - others), n_others // others, 1)


def order_of_epoch(
    clustered: Bool[Tensor, "n"],
    batch_size: int,
    labels: Int64[Tensor, "n"] | None,
    generator: torch.Generator,
) -> Int64[Tensor, "m"]:
    """Return the images that an epoch visits, batch after batch.

    Args:
        clustered: images that take part in the clustering; see ``steps_of_epoch`` for the others.
        batch_size: images per step.
        labels: pseudo-labels to draw the clustered images by, so that every cluster is seen equally often; None visits
            each image once.
        generator: source of randomness, on the device of ``clustered``.
    """
    first, second = (mask.nonzero()[:, 0] for mask in (clustered, ~clustered))

    def one_pass(rows: Int64[Tensor, "r"]) -> Int64[Tensor, "r"]:
        if labels is None or rows is second:
            return rows[shuffled(len(rows), generator)]
        return rows[equal_clusters(labels[rows], generator)]

    if not len(second):
        return one_pass(first)
    steps, half = steps_of_epoch(len(first), len(second), batch_size), batch_size // 2
    columns = []
    for rows, width in ((first, batch_size - half), (second, half)):
        passes = -(-steps * width // len(rows))
        columns.append(torch.cat([one_pass(rows) for _ in range(passes)])[: steps * width].view(steps, width))
    # Mixed within the batch, so that each process gets some of either group.
    return torch.cat(columns, dim=1)[:, shuffled(batch_size, generator)].flatten()


def shuffled(n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
    """Return every image once, in random order."""
    return torch.randperm(n, generator=generator, device=generator.device)


def equal_clusters(labels: Int64[Tensor, "n"], generator: torch.Generator) -> Int64[Tensor, "n"]:
    """Draw n images with replacement so that every non-empty cluster is seen equally often.

    An image's weight is the inverse of its cluster's size (ProPos' ``data_resample``); the images without a cluster
    (−1) count as one more cluster.
    """
    _, cluster, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    weights = 1.0 / sizes[cluster].double()
    # Inverse transform sampling: torch.multinomial stops at 2**24 categories.
    edges = weights.cumsum(0)
    draws = torch.rand(len(labels), generator=generator, dtype=torch.float64, device=generator.device)
    return torch.searchsorted(edges, draws * edges[-1]).clamp(max=len(labels) - 1)


def feed(pixels: Pixels, parts: Iterable[Rows], device: torch.device) -> Generator[Pixels, None, None]:
    """Yield the images of each of ``parts`` on ``device``; ``parts`` are rows on the device of ``pixels``.

    For a GPU, images in memory or in a file are read and copied ahead by a thread, so that no step waits for them.
    Unless you exhaust the generator, close it (``contextlib.closing``) to end the thread.
    """
    reader = _Reader(pixels)
    if pixels.device.type == device.type:
        return (reader.read(rows) for rows in parts)
    return _copied(reader, parts, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


class _Reader:
    """Reads rows of a tensor that may be a memory-mapped file, without read-ahead around them.

    A page fault in a map reads up to 8 MB around an image of 12 KB, one image after the other. ``madvise`` before the
    access reads just the requested images, all at once. After it their pages are the system's again, not the process's.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.shape = pixels.shape[1:]
        self._pixels = pixels
        self._stride = pixels.stride(0)
        self._extent = 1 + sum((n - 1) * step for n, step in zip(self.shape, pixels.stride()[1:], strict=True))
        contiguous = self._extent <= self._stride  # else each image is spread over the file
        mapping = _mapping(pixels) if contiguous else None
        self._madvise = _madvise() if mapping else None
        self._shared = mapping == "shared"

    def read(self, rows: Rows, out: Pixels | None = None) -> Pixels:
        """Copy images, to ``out`` if given."""
        self._advise(rows, mmap.MADV_WILLNEED)
        found = torch.index_select(self._pixels, 0, rows, out=out)  # several times as fast as indexing
        if self._shared:
            self._advise(rows, mmap.MADV_DONTNEED)
        return found

    def _advise(self, rows: Rows, advice: int) -> None:
        if self._madvise:
            for row in rows.tolist():
                self._madvise(self._pixels.data_ptr() + row * self._stride, self._extent, advice)


def page_dropper(pixels: Pixels) -> Callable[[Pixels], None]:
    """What gives the pages of some of ``pixels`` back once they were read, if these lie in a mapped file.

    They stay in the system's cache of files, so that reading them again costs little.
    """
    if _mapping(pixels) != "shared" or not pixels.is_contiguous():
        return lambda _part: None
    madvise = _madvise()

    return lambda part: madvise(part.data_ptr(), part.nbytes, mmap.MADV_DONTNEED)


def _copied(reader: _Reader, parts: Iterable[Rows], stream: torch.cuda.Stream) -> Generator[Pixels, None, None]:
    """Yield images that a thread reads into pinned memory and copies on a stream of its own."""

    def copy(rows: Rows) -> tuple[Pixels, torch.cuda.Event]:
        with torch.cuda.stream(stream):  # also selects its GPU: a new thread would use the first
            pinned = torch.empty(len(rows), *reader.shape, dtype=torch.uint8, pin_memory=True)
            images = reader.read(rows, pinned).to(stream.device, non_blocking=True)
            return images, stream.record_event()

    with closing(map_in_threads(copy, parts, threads=1, ahead=_AHEAD)) as results:
        for images, copied in results:
            consumer = torch.cuda.current_stream(stream.device)
            consumer.wait_event(copied)
            images.record_stream(consumer)  # else a later copy could reuse their memory too early
            yield images


def _mapping(pixels: Pixels) -> Literal["shared", "private"] | None:
    """How the pixels' memory-mapped file is mapped; None where they lie in none. Known on Linux only.

    A private map may hold changes of its own, which are lost with its pages.
    """
    if pixels.device.type != "cpu" or not _MAPS.exists():
        return None
    for line in _MAPS.read_text().splitlines():
        span, permissions, _, _, inode, *_ = line.split()
        first, end = (int(address, 16) for address in span.split("-"))
        if first <= pixels.data_ptr() < end:
            return None if inode == "0" else "shared" if permissions.endswith("s") else "private"
    return None


def _madvise() -> Callable[[int, int, int], None]:
    """The C library's ``madvise``, from any address on: the ``mmap`` object behind a tensor is out of reach."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def advise(first: int, n_bytes: int, advice: int) -> None:
        before = first % mmap.PAGESIZE
        madvise(first - before, before + n_bytes, advice)

    return advise
