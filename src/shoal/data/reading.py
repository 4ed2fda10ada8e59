"""Reading the images of a listing in threads, in order, without holding all of them in memory.

An image that cannot be read, such as a broken JPEG: ``open_noted`` raises an ``UnreadableError``, of which
``decode_blob`` makes the reason in place of pixels. ``read_all``, for training, and ``features.extract``, for a
pretrained network, skip the image and keep the reason for ``skipped.csv``, or fail with it if ``strict``.

Samples of more than 8 bits are scaled by one range for the whole source (``source_scale``), which is measured when the
first of them is met: a source of 8-bit images is read once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from shoal import cores
from shoal.data.content import HEAD, kind_of_content
from shoal.data.decode import (
    NO_IMAGE,
    NO_MEMORY,
    UnreadableError,
    is_shallow,
    open_noted,
    samples_of,
)
from shoal.data.greys import Extremes, Ranges, Samples, Scale, clipping_note
from shoal.data.kinds import RAW, TIFF, Kind, kind_of_name
from shoal.data.listing import Blob, Frame, Listing, Member, Pixels, Remote, check_regular
from shoal.data.prefetch import Prefetched
from shoal.data.reach import LostError, Reach
from shoal.data.rgb import centre_square, samples_to_rgb, to_array, to_pillow
from shoal.data.sketch import sketch
from shoal.data.threads import map_in_threads
from shoal.data.unread import nothing_readable, reason_of, refuse_skipped
from shoal.errors import UserError
from shoal.mapped import scratch
from shoal.noise import muffled
from shoal.progress import ProgressCallback

Result = TypeVar("Result")
_BATCH = 16  # images per task: with one per task, the threads would wait for each other
_BATCH_BYTES = 2**26  # encoded bytes after which a task gets no more images
_NONE, _UNREAD = b"none".ljust(16), b"unread".ljust(16)  # fingerprints of images without bytes
_GREY = 128
_MOST_THREADS = 8  # more would only wait: for a small image, Pillow mostly holds the GIL
_MAX_BYTES = 2**30  # of a file: Pillow's pixel limit at 16 bits per channel


@dataclass(frozen=True)
class Reading:
    """What ``read_all`` read: pixel size, rows that were written, skipped images with reasons, digest of all bytes.

    ``notes`` says what images that were read lack, by their names.
    """

    height: int
    width: int
    kept: list[int]
    skipped: dict[str, str]
    digest: str
    notes: dict[str, str]


class Decoded(NamedTuple):
    """What was made of an image."""

    pixels: Pixels | str
    """Or the reason why it cannot be read."""
    fingerprint: bytes
    """16 bytes, equal for equal files."""
    note: str = ""
    """What the image lacks."""
    sketch: bytes = b""
    """What its copies are told from (``data.sketch``), if that was asked for."""


@runtime_checkable  # so that beartype can check it
class Preparing(Protocol):
    """What brings an image to the pixels that are asked for."""

    min_side: int | None
    """A JPEG may be decoded at a part of its size that keeps this many pixels on both sides."""

    def from_image(self, image: Image.Image, /) -> Pixels:
        """Make pixels of an image in mode RGB."""


class ToSquare:
    """Resizes the short side and crops the central square; with size None, leaves images as they are."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self.min_side = None if size is None else 3 * size  # from there on, the loss of a reduced JPEG is invisible

    def from_image(self, image: Image.Image, /) -> Pixels:
        """Make pixels of an image in mode RGB."""
        return to_array(image if self._size is None else centre_square(image, self._size))


def read_all(
    listing: Listing,
    size: int | None,
    write: Callable[[bytes], object],
    *,
    scale: Scale,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Reading:
    """Decode every image and ``write`` its (3, h, w) bytes, in the listing's order.

    Raises:
        UserError: images differ in size and no ``size`` is given, no image can be read, or, if ``strict``, one cannot;
            or their drive has gone away.
    """
    shape: tuple[int, ...] = ()
    kept: list[int] = []
    skipped: dict[str, str] = {}
    notes: dict[str, str] = {}
    digest = blake2b(digest_size=16)
    total, reach = len(listing.ids), Reach(listing)
    with contextlib.closing(map_blobs(partial(decode_blob, ToSquare(size), scale), listing)) as results:
        for index, (pixels, fingerprint, note, _) in enumerate(results):
            digest.update(fingerprint)
            if isinstance(pixels, str):
                skipped[listing.ids[index]] = reason = reason_of(listing, index, pixels)
                if strict:
                    refuse_skipped(skipped)
                if reach.is_lost(index, reason):
                    raise LostError(listing.ids[index], reason)
            else:
                reach.saw(index)
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    names = listing.ids[kept[0]], listing.ids[index]
                    raise UserError(_sizes_differ(names, shape, pixels.shape))
                kept.append(index)
                write(pixels.tobytes())
                if note:
                    notes[listing.ids[index]] = note
            if progress is not None:
                progress(index + 1, total)
    if not kept:
        raise UserError(nothing_readable(skipped))
    return Reading(shape[1], shape[2], kept, skipped, digest.hexdigest(), notes)


def content_digest(listing: Listing) -> str:
    """Compute the digest that ``read_all`` returns, without decoding."""
    digest = blake2b(digest_size=16)
    for _, fingerprint in map_blobs(read_blob, listing):
        digest.update(fingerprint)
    return digest.hexdigest()


def read_pixels(
    listing: Listing, rows: Iterable[int], size: int, ranges: Ranges | None = None
) -> UInt8[Tensor, "m 3 {size} {size}"]:
    """Decode the images of some rows, in any order and with repeats, to squares; unreadable ones become grey.

    ``ranges`` are those of their data set; by default each image of more than 8 bits has its own.
    """
    wanted = list(rows)
    kept = scratch((len(wanted), 3, size, size), torch.uint8).fill_(_GREY)
    pixels = kept.numpy()
    places: dict[int, list[int]] = {}
    for place, row in enumerate(wanted):
        places.setdefault(row, []).append(place)
    ordered = sorted(places)
    work = partial(decode_blob, ToSquare(size), Scale(ranges))
    with contextlib.closing(map_rows(work, listing, ordered)) as results:
        for row, found in zip(ordered, results, strict=True):
            if isinstance(found.pixels, np.ndarray):
                pixels[places[row]] = found.pixels
    return kept


def decode_blob(preparing: Preparing, scale: Scale, blob: Blob, *, sketched: bool = False) -> Decoded:
    """Return what is made of an image, or the reason why it cannot be read, and its fingerprint."""
    data, fingerprint = read_blob(blob)
    if isinstance(data, str):
        return Decoded(data, fingerprint)
    try:
        image, note = open_content(data, preparing.min_side, scale)
        pixels = preparing.from_image(image)
        return Decoded(pixels, fingerprint, note, sketch(image, data, pixels) if sketched else b"")
    except UnreadableError as error:
        return Decoded(str(error), fingerprint)


def open_content(data: bytes | Pixels | Samples, min_side: int | None, scale: Scale) -> tuple[Image.Image, str]:
    """Make an image in mode RGB of what ``read_blob`` returns, and say what it lacks; see ``open_noted``.

    Raises:
        UnreadableError: it cannot be decoded.
    """
    if isinstance(data, bytes):
        return open_noted(data, min_side, scale)
    if not isinstance(data, Samples):
        return to_pillow(data), ""
    scale.settle(data.kind)
    return samples_to_rgb(data, scale), clipping_note(data, scale)


def source_scale(listing: Listing, ranges: Ranges | None = None) -> Scale:
    """Return the scale of a source: ``ranges`` for the types that these know, else measured when needed."""
    return Scale(ranges, listing.measure or partial(measured_ranges, listing))


def measured_ranges(listing: Listing) -> Ranges:
    """Look at all images of more than 8 bits that do not state their range, and return one for each type of number."""
    extremes = Extremes()
    with contextlib.closing(map_blobs(partial(_measure, extremes), listing)) as results:
        for _ in results:
            pass
    return extremes.ranges()


def _measure(extremes: Extremes, blob: Blob) -> None:
    if isinstance(blob, Path):
        with contextlib.suppress(OSError, ValueError):  # the reason is found in reading it
            check_regular(blob)
            with blob.open("rb") as file:
                if is_shallow(file.read(32)):
                    return
    data, _ = (blob, b"") if isinstance(blob, Samples) else read_blob(blob)
    samples = samples_of(data) if isinstance(data, bytes) else data
    if isinstance(samples, Samples):
        extremes.add(samples)


Content: TypeAlias = bytes | Pixels | Samples | str
"""The bytes, pixels or samples of an image, or the reason why there are none."""


def read_blob(blob: Blob) -> tuple[Content, bytes]:
    """Return the bytes, pixels or samples of an image, or the reason why there are none, and a 16-byte fingerprint."""
    if blob is None:
        return "no bytes in the table", _NONE
    try:
        if isinstance(blob, Path):
            blob = _read_file(blob)
        elif isinstance(blob, Member | Frame | Remote):
            blob = blob.read()
    except UnreadableError as error:
        return str(error), _UNREAD
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return (getattr(error, "strerror", None) or str(error)).lower(), _UNREAD
    except MemoryError:
        return NO_MEMORY, _UNREAD
    if isinstance(blob, bytes):
        return blob, blake2b(blob, digest_size=16).digest()
    values = blob.values if isinstance(blob, Samples) else blob
    return blob, blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()


def _read_file(file: Path) -> bytes:
    check_regular(file)
    kind = kind_of_name(file.name)
    if kind is not None and not kind.is_read:
        with file.open("rb") as opened:
            _check_kind(opened.read(HEAD), kind)
    if (size := file.stat().st_size) > _MAX_BYTES:
        raise UnreadableError(f"{size} bytes, too many for an image")
    return file.read_bytes()


def _check_kind(head: bytes, named: Kind) -> None:
    """Refuse a file of a kind that is not read before all of it is, unless its content is of another kind.

    Raises:
        UnreadableError: it is not read.
    """
    found = kind_of_content(head)
    if found is None or found is named or (named is RAW and found is TIFF):
        raise UnreadableError(NO_IMAGE if named.role == "plain" else named.refusal)


def _sizes_differ(names: tuple[str, str], shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    found = f"{names[0]} has {shape[2]}×{shape[1]} pixels, {names[1]} {other[2]}×{other[1]}"
    return f"the images differ in size ({found}): resize them, e.g. with --data.size 64 (size=64 in Python)."


def map_blobs(
    work: Callable[[Blob], Result], listing: Listing, start: int = 0, *, ahead: int = 0
) -> Generator[Result, None, None]:
    """Apply ``work`` to every image from row ``start`` on, in threads (Pillow decodes without the GIL), in order.

    At least ``ahead`` images are in progress while the caller is busy. Unless you exhaust the generator, close it
    (``contextlib.closing``) so that the threads end.
    """
    return _map(work, listing.blobs_from(start), ahead)


def map_rows(
    work: Callable[[Blob], Result], listing: Listing, rows: Sequence[int], *, ahead: int = 0
) -> Generator[Result, None, None]:
    """``map_blobs`` for the images of some rows, in ascending order."""
    return _map(work, select(listing, rows), ahead)


def _map(work: Callable[[Blob], Result], blobs: Iterator[Blob], ahead: int = 0) -> Generator[Result, None, None]:
    requested = Prefetched(blobs)
    batches = iter(lambda: _next_batch(requested), [])
    threads = min(cores.own_cores(), _MOST_THREADS)
    n_waiting = max(threads, -(-ahead // _BATCH))
    results = map_in_threads(lambda batch: [work(blob) for blob in batch], batches, threads=threads, ahead=n_waiting)
    # Requests are withdrawn before the threads that wait for them are.
    with warnings.catch_warnings(), muffled(), contextlib.closing(results), contextlib.closing(requested):
        warnings.simplefilter("ignore")  # Pillow's warnings about odd files; what matters is in the reasons
        for batch in results:
            yield from batch


def _next_batch(blobs: Iterator[Blob]) -> list[Blob]:
    batch: list[Blob] = []
    n_bytes = 0
    for blob in blobs:
        batch.append(blob)
        n_bytes += _size_of(blob)
        if len(batch) == _BATCH or n_bytes > _BATCH_BYTES:
            break
    return batch


def _size_of(blob: Blob) -> int:
    """Bytes that an image takes before it is decoded, as far as they are in memory."""
    if isinstance(blob, bytes):
        return len(blob)
    if isinstance(blob, Frame):
        return blob.n_bytes
    values = blob.values if isinstance(blob, Samples) else blob
    return values.nbytes if isinstance(values, np.ndarray) else 0


def select(listing: Listing, ordered: Sequence[int]) -> Iterator[Blob]:
    """Iterate over the images of ascending rows."""
    if listing.select is not None:
        yield from listing.select(ordered)
    elif len(listing.files):
        yield from (listing.files[row] for row in ordered)
    elif len(ordered):
        blobs, at = listing.blobs_from(ordered[0]), ordered[0]
        for row in ordered:
            yield next(islice(blobs, row - at, None))
            at = row + 1
