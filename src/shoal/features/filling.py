"""The loop that makes features of images: decoding in threads, while the network computes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shoal.data.file_stats import FileStat, stat_of
from shoal.data.greys import Scale
from shoal.data.listing import Blob, Listing, Pixels
from shoal.data.reach import LostError, Reach
from shoal.data.reading import Decoded, Preparing, decode_blob, map_rows
from shoal.data.unread import reason_of, refuse_skipped
from shoal.errors import UserError
from shoal.features.encoder import Encoder
from shoal.features.known import Known
from shoal.features.matching import pixel_fingerprint
from shoal.features.store import Store

_COMMIT_SECONDS = 1.0
"""Seconds between commits, roughly the work lost in a crash; a commit takes some milliseconds."""

_COMPUTING = 8
"""Batches that a CPU computes at once at most: with more, threads would wait for the interpreter's lock."""

_NOT_FINITE = "its features hold NaN or infinity"

BATCHES_PER_BLOCK = 4
"""No batch reaches beyond a block of this many: the batches of a block are the same whoever computes it."""

Count: TypeAlias = Callable[[int], object]
"""Called with how many rows of the listing have been dealt with."""


def block_size(batch_size: int) -> int:
    """Images of a block, given how many go through the network at once."""
    return BATCHES_PER_BLOCK * batch_size


@dataclass
class _Batch:
    """Images that go through the network at once, and those between them that cannot be read."""

    rows: list[int] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    stats: list[FileStat] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    sketches: list[bytes] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    end: int = 0
    """Row of the listing behind the last of them."""
    features: Float[Tensor, "b d"] | None = None


class Filling:
    """Features on their way into a store, of the images from where it stands up to a row of the listing."""

    def __init__(
        self, store: Store, end: int, encoder: Encoder, listing: Listing, known: Known, scale: Scale, *, strict: bool
    ) -> None:
        self.store = store
        self.last = end
        self.encoder = encoder
        self.listing = listing
        self.known = known
        self.scale = scale
        self.strict = strict
        self.batch_size = store.done.batch_size or store.header.batch_size
        self.end = store.done.looked_at
        self.committed = time.monotonic()

    def run(self, count: Count) -> None:
        """Go on from the last commit to the last image."""
        waiting: deque[Future[_Batch]] = deque()
        with (
            _computing(self.encoder.device) as (pool, workers),
            contextlib.closing(self._batches(workers, count)) as batches,
        ):
            try:
                for batch in batches:
                    waiting.append(pool.submit(self._compute, batch))
                    if len(waiting) > workers:
                        self._keep(waiting.popleft().result())
            except LostError:  # what has been read before it can be kept
                for each in waiting:
                    self._keep(each.result())
                self.store.commit(self.end, self.batch_size)
                raise
            while waiting:
                self._keep(waiting.popleft().result())
        self.store.commit(self.last, self.batch_size)

    def _batches(self, workers: int, count: Count) -> Generator[_Batch, None, None]:
        """Prepared images, in batches; the last of a block may be smaller, or empty."""
        start = self.store.done.looked_at
        rows, block = self.known.missing(start, self.last), block_size(self.store.header.batch_size)
        first = self.known.n_missing(start)
        reach = Reach(self.listing)
        work = partial(_prepared, self.encoder.preparing, self.scale, self.store.header.pixels is not None)
        ahead = (workers + 1) * self.batch_size
        batch = _Batch()
        with contextlib.closing(map_rows(work, self.listing, rows, ahead=ahead)) as results:
            for number, (row, (found, stat)) in enumerate(zip(rows, results, strict=True), first + 1):
                if isinstance(found.pixels, str):
                    self._skip(batch, reach, row, found.pixels)
                else:
                    reach.saw(row)
                    batch.rows.append(row)
                    batch.fingerprints.append(found.fingerprint)
                    batch.stats.append(stat)
                    batch.pixels.append(found.pixels)
                    batch.sketches.append(found.sketch)
                    if found.note:
                        batch.notes[row] = found.note
                batch.end = row + 1
                if len(batch.rows) >= self.batch_size or number % block == 0:
                    yield batch
                    batch = _Batch()
                count(row + 1 - start)
        batch.end = self.last
        yield batch

    def _skip(self, batch: _Batch, reach: Reach, row: int, reason: str) -> None:
        name, reason = self.listing.ids[row], reason_of(self.listing, row, reason)
        if self.strict:
            refuse_skipped({name: reason})
        if reach.is_lost(row, reason):
            raise LostError(name, reason, " to resume: the features of the images before it are kept")
        batch.skipped[row] = reason

    def _compute(self, batch: _Batch) -> _Batch:
        if batch.rows:
            batch.features = self._features(torch.from_numpy(np.stack(batch.pixels)))
        batch.pixels = []
        return batch

    def _keep(self, batch: _Batch) -> None:
        """Add features that are finite, and commit now and then: a resumed run makes the same batches."""
        columns: dict[str, UInt8[np.ndarray, "b _bytes"]] = {}
        if batch.features is not None:
            finite = torch.isfinite(batch.features).all(1)
            odd = [row for row, good in zip(batch.rows, finite.tolist(), strict=True) if not good]
            batch.skipped |= dict.fromkeys(odd, _NOT_FINITE)
            if odd and self.strict:
                refuse_skipped({self.listing.ids[odd[0]]: _NOT_FINITE})
            kept = torch.nonzero(finite)[:, 0].tolist()
            lists = (batch.rows, batch.fingerprints, batch.stats, batch.sketches)
            rows, prints, stats, sketches = ([each[i] for i in kept] for each in lists)
            columns = self.store.columns(rows, prints, batch.features[finite], stats, sketches)
            self.store.keep_ranges(self.scale.ranges)  # before any image that was scaled by them
        for part in self.known.merged(columns, range(self.end, batch.end)):
            self.store.append_columns(part)
        for row, reason in batch.skipped.items():
            self.store.skip(row, reason)
        self.store.note({row: note for row, note in batch.notes.items() if row not in batch.skipped})
        self.end = batch.end
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


def _prepared(preparing: Preparing, scale: Scale, by_pixels: bool, blob: Blob) -> tuple[Decoded, FileStat]:
    """What is made of an image, and its file as it was before it was read."""
    stat = stat_of(blob)
    found = decode_blob(preparing, scale, blob, sketched=True)
    if by_pixels and not isinstance(found.pixels, str):
        found = found._replace(fingerprint=pixel_fingerprint(found.pixels))
    return found, stat


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
