"""The order in which an epoch visits the images."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal.data.threads import in_threads


def steps_of_epoch(n_clustered: int, n_others: int, batch_size: int) -> int:
    """Whole batches in an epoch; the images left over sit this epoch out.

    Where there are images beside those that are clustered, each batch is half of the ones and half of the others, and
    the epoch lasts as long as one pass over the more numerous kind.
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
    """Which images an epoch visits, batch after batch.

    Args:
        clustered: the images that take part in the clustering; see ``steps_of_epoch`` for the rest.
        batch_size: images of a step.
        labels: pseudo-labels by which clustered images are drawn, so that every cluster is seen equally often; None
            visits each image once.
        generator: source of the order, on the device of ``clustered``.
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
    # Mixed within the batch, so that each process gets some of either kind.
    return torch.cat(columns, dim=1)[:, shuffled(batch_size, generator)].flatten()


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
