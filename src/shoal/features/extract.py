"""Images in, features on the disk: decoding in threads, while the network computes."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from shoal.data.greys import ANY, Ranges, Scale
from shoal.data.links import equal_rows, other_names
from shoal.data.listing import Listing, Pixels, Source, source_digest
from shoal.data.reading import decode_blob, map_blobs, nothing_readable, refuse_skipped, source_scale
from shoal.errors import UserError
from shoal.features.encoder import Encoder
from shoal.features.store import (
    Embedded,
    Header,
    Store,
    check_free,
    has_links,
    open_embedded,
    read_header,
    write_links,
)
from shoal.progress import ProgressCallback

_COMMIT_SECONDS = 1.0
"""Seconds between commits, roughly the work lost in a crash; a commit takes some milliseconds."""

_COMPUTING = 8
"""Batches that a CPU computes at once at most: with more, threads would wait for the interpreter's lock."""

_NOT_FINITE = "its features hold NaN or infinity"


def embed(
    source: Source,
    encoder: Encoder,
    folder: Path,
    *,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Embedded:
    """Compute the features of all images and keep them in ``folder``; resume from those already saved.

    A process killed at any moment loses a second of work: the next call resumes, and computes the same features bit by
    bit on the same machine. Memory does not grow with the number of images.

    Args:
        source: the images.
        encoder: what makes features of them.
        folder: where they are kept.
        ranges: what becomes black and white, by type of number; the source is measured for others of more than 8 bits.
        strict: whether to fail on the first image that cannot be read instead of skipping it.
        progress: told how many images are done, of how many.

    Raises:
        UserError: the folder has features of another encoder or of other images, no image can be read, or, if
            ``strict``, one that cannot; the disk is full.
    """
    listing = source.listing()
    images = source_digest(source, listing)
    header = read_header(folder)
    if header is None:
        check_free(folder)
        header = Header(
            encoder.spec,
            len(listing.ids),
            encoder.n_features,
            choose_batch_size(encoder),
            images,
            listing.classes,
            dict(ranges or {}),
        )
        store = Store.begin(folder, header, listing)
    else:
        _check_same(folder, header, encoder, images)
        _check_range(folder, header, ranges or {})
        store = Store(folder, header)
    if strict:
        refuse_skipped({listing.ids[row]: reason for row, reason in store.skipped.items()})
    if store.done.looked_at < header.n:
        with store:
            scale = source_scale(listing, header.ranges)
            _Filling(store, encoder, listing, scale, strict=strict).run(progress)
    if not store.done.kept:
        raise UserError(nothing_readable({listing.ids[row]: reason for row, reason in store.skipped.items()}))
    if not has_links(folder):
        write_links(folder, _links(open_embedded(folder), listing))
    return open_embedded(folder)


def _links(embedded: Embedded, listing: Listing) -> Int64[np.ndarray, "m 2"]:
    """Rows that are other names of a file, and the row of that file."""
    return other_names(lambda row: listing.path(int(embedded.rows[row])), equal_rows(embedded.fingerprints))


@dataclass
class _Batch:
    """Images that go through the network at once, and those between them that cannot be read."""

    rows: list[int] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    sketches: list[bytes] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    end: int = 0
    """Row of the listing behind the last of them."""
    features: Float[Tensor, "b d"] | None = None


class _Filling:
    """Features on their way into a store."""

    def __init__(self, store: Store, encoder: Encoder, listing: Listing, scale: Scale, *, strict: bool) -> None:
        self.store = store
        self.encoder = encoder
        self.listing = listing
        self.scale = scale
        self.strict = strict
        self.batch_size = store.done.batch_size or store.header.batch_size
        self.committed = time.monotonic()

    def run(self, progress: ProgressCallback | None) -> None:
        """Go on from the last commit to the last image."""
        waiting: deque[Future[_Batch]] = deque()
        with (
            _computing(self.encoder.device) as (pool, workers),
            contextlib.closing(self._batches(workers, progress)) as batches,
        ):
            for batch in batches:
                waiting.append(pool.submit(self._compute, batch))
                if len(waiting) > workers:
                    self._keep(waiting.popleft().result())
            while waiting:
                self._keep(waiting.popleft().result())
        self.store.commit(self.store.header.n, self.batch_size)

    def _batches(self, workers: int, progress: ProgressCallback | None) -> Generator[_Batch, None, None]:
        """Prepared images, in batches; the last may be smaller, or empty."""
        start, n = self.store.done.looked_at, self.store.header.n
        work = partial(decode_blob, self.encoder.preparing, self.scale, sketched=True)
        ahead = (workers + 1) * self.batch_size
        batch = _Batch()
        with contextlib.closing(map_blobs(work, self.listing, start, ahead=ahead)) as results:
            for row, found in enumerate(results, start):
                if isinstance(found.pixels, str):
                    batch.skipped[row] = found.pixels
                    if self.strict:
                        refuse_skipped({self.listing.ids[row]: found.pixels})
                else:
                    batch.rows.append(row)
                    batch.fingerprints.append(found.fingerprint)
                    batch.pixels.append(found.pixels)
                    batch.sketches.append(found.sketch)
                    if found.note:
                        batch.notes[row] = found.note
                batch.end = row + 1
                if len(batch.rows) >= self.batch_size:
                    yield batch
                    batch = _Batch()
                if progress is not None:
                    progress(row + 1, n)
        yield batch

    def _compute(self, batch: _Batch) -> _Batch:
        if batch.rows:
            batch.features = self._features(torch.from_numpy(np.stack(batch.pixels)))
        batch.pixels = []
        return batch

    def _keep(self, batch: _Batch) -> None:
        """Add features that are finite, and commit now and then: a resumed run makes the same batches."""
        if batch.features is not None:
            finite = torch.isfinite(batch.features).all(1)
            odd = [row for row, good in zip(batch.rows, finite.tolist(), strict=True) if not good]
            batch.skipped |= dict.fromkeys(odd, _NOT_FINITE)
            if odd and self.strict:
                refuse_skipped({self.listing.ids[odd[0]]: _NOT_FINITE})
            kept = torch.nonzero(finite)[:, 0].tolist()
            self.store.keep_ranges(self.scale.ranges)  # before any image that was scaled by them
            fingerprints, sketches = [batch.fingerprints[i] for i in kept], [batch.sketches[i] for i in kept]
            self.store.append([batch.rows[i] for i in kept], fingerprints, sketches, batch.features[finite])
        for row, reason in batch.skipped.items():
            self.store.skip(row, reason)
        self.store.note({row: note for row, note in batch.notes.items() if row not in batch.skipped})
        if batch.rows and time.monotonic() - self.committed > _COMMIT_SECONDS:
            self.store.commit(batch.end, self.batch_size)
            self.committed = time.monotonic()

    def _features(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of a batch; where memory runs out it is halved, and so are all after it."""
        while True:
            size = self.batch_size
            try:
                return torch.cat([self.encoder.embed(part) for part in torch.split(pixels, size)])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    where = f"the device {self.encoder.device} has no memory for a single image"
                    raise UserError(f"{where}: stop what else uses it, or give a smaller --backbone.name.") from error
                self.batch_size = size // 2
                torch.cuda.empty_cache()


@contextlib.contextmanager
def _computing(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads for the network, and how many.

    On a CPU each takes a batch of its own. Several threads that share one would wait for each other after every
    layer, and for as long as the system takes one of them off its core to decode, or for another program.
    """
    threads = torch.get_num_threads()
    workers = min(threads, _COMPUTING) if device.type == "cpu" else 1
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    try:
        yield pool, workers
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # parts of it hold for the whole process


def _check_same(folder: Path, header: Header, encoder: Encoder, images: str) -> None:
    """Raise a UserError when the folder was begun for something else."""
    advice = "give another --out, or remove this one"
    mine, theirs = encoder.spec, header.spec
    named = mine.name if mine.kind == "timm" else ""  # a run or a file of weights may have moved
    if (mine.kind, named, mine.digest) != (theirs.kind, theirs.name if named else "", theirs.digest):
        whose = f"other weights of {theirs.name}" if mine.name == theirs.name else theirs.name
        raise UserError(f"{folder} holds features of {whose}, not of {mine.name}: {advice}.")
    if header.images != images:
        raise UserError(f"{folder} holds features of other images, or these have changed since: {advice}.")


def _check_range(folder: Path, header: Header, ranges: Ranges) -> None:
    """Raise a UserError when another range is asked for than the folder was begun with."""
    begun = dict(header.ranges)
    if (ranges and begun | dict(ranges) != begun) or (ANY in begun and not ranges):
        raise UserError(
            f"{folder} was begun with another --data.range: give the same again, another --out, or remove this one."
        )


_VALUES = 2**23
"""On a CPU, values of the largest feature map of a batch: larger ones leave the caches. See benchmarks/LOG.md."""


_ON_CPU = (4, 64)


_ON_GPU = (16, 1024)


_PAYS = 1.05
"""A batch twice as large is taken if it gives so many times the images per second."""


def choose_batch_size(encoder: Encoder) -> int:
    """Choose a batch that is fast and fits.

    On a CPU it follows from the network, so that the same images give the same features on another day. On a GPU
    batches are doubled until they do not fit, or do not pay any more; one below what just fits is taken.
    """
    if encoder.device.type == "cpu":
        least, most = _ON_CPU
        fitting = round(math.log2(_VALUES / _largest_map(encoder)))
        return min(most, max(least, 1 << max(fitting, 0)))
    return largest_that_pays(lambda size: _rate(encoder, size), *_ON_GPU)


def largest_that_pays(rate: Callable[[int], float], least: int, most: int) -> int:
    """Double a batch while the rate (images per second) grows; memory that runs out leaves a margin of one half."""
    size, best = least, 0.0
    while True:
        try:
            found = rate(size)
        except torch.OutOfMemoryError:
            return max(size // 4, 1)
        if found < _PAYS * best:
            return size // 2
        if size >= most:
            return size
        size, best = 2 * size, found


def _rate(encoder: Encoder, size: int) -> float:
    pixels = torch.zeros(size, 3, *encoder.input_size, dtype=torch.uint8)
    encoder.embed(pixels)  # the first time, kernels are chosen
    start = time.perf_counter()
    encoder.embed(pixels)
    return size / (time.perf_counter() - start)


def _largest_map(encoder: Encoder) -> int:
    """Values of the largest output of a layer for one image."""
    largest = 3 * math.prod(encoder.input_size)

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [module.register_forward_hook(look) for module in encoder.fast.modules()]
    try:
        encoder.embed(torch.zeros(1, 3, *encoder.input_size, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return largest
