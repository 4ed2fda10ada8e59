"""Images in, features on the disk: decoding in threads, while the network computes."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal.clustering.rows import equal_rows
from shoal.data.greys import ANY, Ranges, Scale
from shoal.data.links import other_names
from shoal.data.listing import Blob, Listing, Look, Pixels, Source, source_digest
from shoal.data.looks import look_of
from shoal.data.reach import LostError, Reach, out_of_reach
from shoal.data.reading import Decoded, Preparing, decode_blob, map_rows, source_scale
from shoal.data.unread import nothing_readable, reason_of, refuse_skipped
from shoal.errors import UserError
from shoal.features.batching import choose_batch_size
from shoal.features.embedded import Embedded, Header, has_links, open_embedded, read_header
from shoal.features.encoder import Encoder
from shoal.features.known import Known
from shoal.features.matching import Matched, Prepare, match, pixel_fingerprint
from shoal.features.store import (
    Store,
    check_free,
    check_idle,
    remove_features,
    write_links,
    writing,
)
from shoal.folder import ASIDE
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
    earlier: tuple[Path, Matched] | None = None,
    own: bool = False,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Embedded:
    """Compute the features of all images and keep them in ``folder``; resume from those already saved.

    A process killed at any moment loses a second of work: the next call resumes, and computes the same features bit by
    bit on the same machine. Images that have come, gone or changed since are seen: the features of all others are kept.
    Memory does not grow with the number of images.

    Args:
        source: the images.
        encoder: what makes features of them.
        folder: where they are kept.
        earlier: another folder of the encoder's features, and where its images are in ``source``; they are taken over.
        own: the features are those of a training run in its own folder, which tells images by their pixels.
        ranges: what becomes black and white, by type of number; the source is measured for others of more than 8 bits.
        strict: whether to fail on the first image that cannot be read instead of skipping it.
        progress: told how many images are done, of how many.

    Raises:
        UserError: the folder has features of another encoder or of other images, no image can be read, or, if
            ``strict``, one that cannot; the disk is full; the drive of the images has gone away.
    """
    listing = source.listing()
    images = source_digest(source, listing)
    spec, pixels = (replace(encoder.spec, name=""), encoder.input_size) if own else (encoder.spec, None)
    header = read_header(folder)
    begun: Ranges = {} if header is None else header.ranges
    prepare = partial(encoder.prepare, scale=Scale(begun or ranges)) if own else None
    if header is not None:
        _check_same(folder, header, encoder)
        _check_range(folder, header, ranges or {})
        if header.images != images or any(map(out_of_reach, Store(folder, header).skipped.values())):
            _set_aside(folder, source, prepare)
            header = None
    if header is None:
        check_free(folder)
        size, known = choose_batch_size(encoder), {**begun, **(ranges or {})}
        header = Header(spec, len(listing.ids), encoder.n_features, size, images, listing.classes, pixels, known)
        store = Store.begin(folder, header, listing)
    else:
        store = Store(folder, header)
    if strict:
        refuse_skipped({listing.ids[row]: reason for row, reason in store.skipped.items()})
    if store.done.looked_at < header.n:
        _fill(store, encoder, listing, _earlier(folder, earlier, source, prepare), strict=strict, progress=progress)
    for aside in _asides(folder):
        remove_features(aside)
        with contextlib.suppress(OSError):  # somebody has put something there
            aside.rmdir()
    if not store.done.kept:
        raise UserError(nothing_readable({listing.ids[row]: reason for row, reason in store.skipped.items()}))
    if not has_links(folder):
        write_links(folder, _links(open_embedded(folder), listing))
    return open_embedded(folder)


def _fill(
    store: Store,
    encoder: Encoder,
    listing: Listing,
    earlier: list[tuple[Path, Matched]],
    *,
    strict: bool,
    progress: ProgressCallback | None,
) -> None:
    """Compute what no earlier folder has, and take over the rest."""
    known = Known.found(earlier, len(listing.ids))
    scale = source_scale(listing, store.header.ranges)
    with store:
        store.note(known.notes)
        _Filling(store, encoder, listing, known, scale, strict=strict).run(progress)


def _links(embedded: Embedded, listing: Listing) -> Int64[np.ndarray, "m 2"]:
    """Rows that are other names of a file, and the row of that file."""
    return other_names(lambda row: listing.path(int(embedded.rows[row])), equal_rows(embedded.fingerprints))


def _earlier(
    folder: Path, earlier: tuple[Path, Matched] | None, source: Source, prepare: Prepare | None
) -> list[tuple[Path, Matched]]:
    """Folders that have some of the features, and where their images are."""
    asides = [(aside, match(open_embedded(aside, unfinished=True), source, prepare)) for aside in _asides(folder)]
    return [*([earlier] if earlier else []), *asides]


def _asides(folder: Path) -> list[Path]:
    """Features of images that have changed since, until those of all images are there."""
    return sorted(path for path in folder.parent.glob(f"{folder.name}{ASIDE}*") if (path / "header.json").is_file())


def _set_aside(folder: Path, source: Source, prepare: Prepare | None) -> None:
    """Give way to features of the images as they are now.

    Raises:
        UserError: none of the images is among them, or another process is writing to the folder.
    """
    kept = open_embedded(folder, unfinished=True)
    if len(kept.rows) and not len(match(kept, source, prepare).there):
        raise UserError(f"{folder} holds features of other images: give another --out, or remove this one.")
    check_idle(folder)
    number = 1
    while (aside := folder.with_name(f"{folder.name}{ASIDE}{number}")).exists():
        number += 1
    with writing(folder, len(kept.rows)):
        folder.rename(aside)


@dataclass
class _Batch:
    """Images that go through the network at once, and those between them that cannot be read."""

    rows: list[int] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    sketches: list[bytes] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    end: int = 0
    """Row of the listing behind the last of them."""
    features: Float[Tensor, "b d"] | None = None


class _Filling:
    """Features on their way into a store."""

    def __init__(
        self, store: Store, encoder: Encoder, listing: Listing, known: Known, scale: Scale, *, strict: bool
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.listing = listing
        self.known = known
        self.scale = scale
        self.strict = strict
        self.batch_size = store.done.batch_size or store.header.batch_size
        self.end = store.done.looked_at
        self.committed = time.monotonic()

    def run(self, progress: ProgressCallback | None) -> None:
        """Go on from the last commit to the last image."""
        waiting: deque[Future[_Batch]] = deque()
        with (
            _computing(self.encoder.device) as (pool, workers),
            contextlib.closing(self._batches(workers, progress)) as batches,
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
        self.store.commit(self.store.header.n, self.batch_size)

    def _batches(self, workers: int, progress: ProgressCallback | None) -> Generator[_Batch, None, None]:
        """Prepared images, in batches; the last may be smaller, or empty."""
        start, n = self.store.done.looked_at, self.store.header.n
        rows = self.known.missing(start, n)
        reach = Reach(self.listing)
        work = partial(_prepared, self.encoder.preparing, self.scale, self.store.header.pixels is not None)
        ahead = (workers + 1) * self.batch_size
        batch = _Batch()
        with contextlib.closing(map_rows(work, self.listing, rows, ahead=ahead)) as results:
            for row, (found, look) in zip(rows, results, strict=True):
                if isinstance(found.pixels, str):
                    self._skip(batch, reach, row, found.pixels)
                else:
                    reach.saw(row)
                    batch.rows.append(row)
                    batch.fingerprints.append(found.fingerprint)
                    batch.looks.append(look)
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
        batch.end = n
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
            lists = (batch.rows, batch.fingerprints, batch.looks, batch.sketches)
            rows, prints, looks, sketches = ([each[i] for i in kept] for each in lists)
            columns = self.store.columns(rows, prints, batch.features[finite], looks, sketches)
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


def _prepared(preparing: Preparing, scale: Scale, by_pixels: bool, blob: Blob) -> tuple[Decoded, Look]:
    """What is made of an image, and its file as it was before it was read."""
    look = look_of(blob)
    found = decode_blob(preparing, scale, blob, sketched=True)
    if by_pixels and not isinstance(found.pixels, str):
        found = found._replace(fingerprint=pixel_fingerprint(found.pixels))
    return found, look


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


def _check_same(folder: Path, header: Header, encoder: Encoder) -> None:
    """Raise a UserError when the folder was begun with another encoder."""
    mine, theirs = encoder.spec, header.spec
    if not mine.is_same_as(theirs):
        whose = f"other weights of {theirs.name}" if mine.name == theirs.name else theirs.name
        raise UserError(
            f"{folder} holds features of {whose}, not of {mine.name}: give another --out, or remove this one."
        )


def _check_range(folder: Path, header: Header, ranges: Ranges) -> None:
    """Raise a UserError when another range is asked for than the folder was begun with."""
    begun = dict(header.ranges)
    if (ranges and begun | dict(ranges) != begun) or (ANY in begun and not ranges):
        raise UserError(
            f"{folder} was begun with another --data.range: give the same again, another --out, or remove this one."
        )
