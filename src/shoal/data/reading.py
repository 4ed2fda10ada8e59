"""Reading the images of a listing in threads, in order, without holding all of them in memory.

An image that cannot be read, such as a broken JPEG: ``decode`` raises an ``UnreadableError``, of which ``decode_blob``
makes the reason in place of pixels. ``read_all``, for training, and ``features.extract``, for a pretrained network,
skip the image and keep the reason for ``skipped.csv``, or fail with it if ``strict``.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from shoal.data.decode import NO_MEMORY, UnreadableError, decode, resized
from shoal.data.listing import Blob, Listing, Member, Pixels, check_regular
from shoal.data.reach import LostError, Reach
from shoal.data.threads import map_in_threads
from shoal.errors import UserError
from shoal.progress import ProgressCallback

Result = TypeVar("Result")
_BATCH = 16  # images per task: with one per task, the threads would wait for each other
_BATCH_BYTES = 2**26  # encoded bytes after which a task gets no more images
_NONE, _UNREAD = b"none".ljust(16), b"unread".ljust(16)  # fingerprints of images without bytes
_GREY = 128
_THREADS = min(os.cpu_count() or 1, 8)  # more would only wait: for a small image, Pillow mostly holds the GIL
_MAX_BYTES = 2**30  # of a file: Pillow's pixel limit at 16 bits per channel
_SHOWN = 5  # skipped files that a warning names


@dataclass(frozen=True)
class Reading:
    """What ``read_all`` read: pixel size, rows that were written, skipped images with reasons, digest of all bytes."""

    height: int
    width: int
    kept: list[int]
    skipped: dict[str, str]
    digest: str


def read_all(
    listing: Listing,
    size: int | None,
    write: Callable[[bytes], object],
    *,
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
    digest = blake2b(digest_size=16)
    total, reach = len(listing.ids), Reach(listing)
    with contextlib.closing(map_blobs(partial(decode_blob, partial(_to_pixels, size)), listing)) as results:
        for index, (pixels, fingerprint) in enumerate(results):
            digest.update(fingerprint)
            if isinstance(pixels, str):
                skipped[listing.ids[index]] = pixels
                if strict:
                    refuse_skipped(skipped)
                if reach.is_lost(index, pixels):
                    raise LostError(listing.ids[index], pixels)
            else:
                reach.saw(index)
                shape = shape or pixels.shape
                if pixels.shape != shape:
                    names = listing.ids[kept[0]], listing.ids[index]
                    raise UserError(_sizes_differ(names, shape, pixels.shape))
                kept.append(index)
                write(pixels.tobytes())
            if progress is not None:
                progress(index + 1, total)
    if not kept:
        raise UserError(nothing_readable(skipped))
    return Reading(shape[1], shape[2], kept, skipped, digest.hexdigest())


def content_digest(listing: Listing) -> str:
    """Compute the digest that ``read_all`` returns, without decoding."""
    digest = blake2b(digest_size=16)
    for _, fingerprint in map_blobs(read_blob, listing):
        digest.update(fingerprint)
    return digest.hexdigest()


def read_pixels(listing: Listing, rows: Iterable[int], size: int) -> UInt8[Tensor, "m 3 {size} {size}"]:
    """Decode the images of some rows, in any order and with repeats, to squares; unreadable ones become grey."""
    wanted = list(rows)
    pixels = np.full((len(wanted), 3, size, size), _GREY, np.uint8)
    places: dict[int, list[int]] = {}
    for place, row in enumerate(wanted):
        places.setdefault(row, []).append(place)
    ordered = sorted(places)
    with contextlib.closing(map_rows(partial(decode_blob, partial(_to_pixels, size)), listing, ordered)) as results:
        for row, (found, _) in zip(ordered, results, strict=True):
            if isinstance(found, np.ndarray):
                pixels[places[row]] = found
    return torch.from_numpy(pixels)


def decode_blob(decoder: Callable[[bytes | Pixels], Pixels], blob: Blob) -> tuple[Pixels | str, bytes]:
    """Return what ``decoder`` makes of an image, or the reason why it cannot be read, and its fingerprint."""
    data, fingerprint = read_blob(blob)
    if isinstance(data, str):
        return data, fingerprint
    try:
        return decoder(data), fingerprint
    except UnreadableError as error:
        return str(error), fingerprint


def _to_pixels(size: int | None, data: bytes | Pixels) -> Pixels:
    if isinstance(data, bytes):
        return decode(data, size)
    return data if size is None else resized(data, size)


def read_blob(blob: Blob) -> tuple[bytes | Pixels | str, bytes]:
    """Return the encoded bytes or pixels of an image, or the reason why there are none, and a 16-byte fingerprint."""
    if blob is None:
        return "no bytes in the table", _NONE
    if isinstance(blob, np.ndarray):
        return blob, blake2b(np.ascontiguousarray(blob).data, digest_size=16).digest()
    try:
        if isinstance(blob, Path):
            blob = _read_file(blob)
        elif isinstance(blob, Member):
            blob = blob.read()
    except UnreadableError as error:
        return str(error), _UNREAD
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return (getattr(error, "strerror", None) or str(error)).lower(), _UNREAD
    except MemoryError:
        return NO_MEMORY, _UNREAD
    return blob, blake2b(blob, digest_size=16).digest()


def _read_file(file: Path) -> bytes:
    check_regular(file)
    if (size := file.stat().st_size) > _MAX_BYTES:
        raise UnreadableError(f"{size} bytes, too many for an image")
    return file.read_bytes()


def refuse_skipped(skipped: Mapping[str, str]) -> None:
    """Fail with the first skipped image.

    Raises:
        UserError: an image was skipped.
    """
    for name, reason in skipped.items():
        raise UserError(f"cannot read the image {name} ({reason}): repair or remove it, or omit --strict to skip it.")


def skip_note(skipped: Mapping[str, str], n_read: int) -> str:
    """Say how many images were skipped, and name the first of them."""
    # Like repr without its quotes: a line break in a name does not break the line.
    some = ", ".join(f"{repr(name)[1:-1]} ({reason})" for name, reason in islice(skipped.items(), _SHOWN))
    more = ", …" if len(skipped) > _SHOWN else ""
    return f"{len(skipped)} of {n_read + len(skipped)} images could not be read and were skipped: {some}{more}"


def nothing_readable(skipped: Mapping[str, str]) -> str:
    """Say why no image could be read."""
    if not skipped:
        return "these files contain no images: they have no rows."
    name, reason = next(iter(skipped.items()))
    if len(skipped) == 1:
        return f"the image {name} could not be read: {reason}."
    return f"none of the {len(skipped)} images could be read; the first, {name}: {reason}."


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
    return _map(work, _select(listing, rows), ahead)


def _map(work: Callable[[Blob], Result], blobs: Iterator[Blob], ahead: int = 0) -> Generator[Result, None, None]:
    batches = iter(lambda: _next_batch(blobs), [])
    n_waiting = max(_THREADS, -(-ahead // _BATCH))
    results = map_in_threads(lambda batch: [work(blob) for blob in batch], batches, threads=_THREADS, ahead=n_waiting)
    with warnings.catch_warnings(), contextlib.closing(results):
        warnings.simplefilter("ignore")  # Pillow's warnings about odd files; what matters is in the reasons
        for batch in results:
            yield from batch


def _next_batch(blobs: Iterator[Blob]) -> list[Blob]:
    batch: list[Blob] = []
    n_bytes = 0
    for blob in blobs:
        batch.append(blob)
        n_bytes += len(blob) if isinstance(blob, bytes) else 0
        if len(batch) == _BATCH or n_bytes > _BATCH_BYTES:
            break
    return batch


def _select(listing: Listing, ordered: Sequence[int]) -> Iterator[Blob]:
    """Iterate over the images of ascending rows."""
    if len(listing.files):
        yield from (listing.files[row] for row in ordered)
    elif len(ordered):
        blobs, at = listing.blobs_from(ordered[0]), ordered[0]
        for row in ordered:
            yield next(islice(blobs, row - at, None))
            at = row + 1
