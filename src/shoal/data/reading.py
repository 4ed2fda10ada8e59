"""Decoding all images of a listing, several at a time and in order, without ever holding them all."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from shoal.data.decode import NO_MEMORY, UnreadableError, decode, resized
from shoal.data.listing import Blob, Listing, Member, Pixels, check_regular
from shoal.data.threads import in_threads
from shoal.errors import UserError

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many images are done, of how many; while they are downloaded, what share of them has come."""

Result = TypeVar("Result")
_BATCH = 16  # images that a thread takes at once: one at a time, the threads would wait for each other
_HELD = 2**26  # bytes of encoded images in a batch that suffice, however few the images
_NONE, _UNREAD = b"none".ljust(16), b"unread".ljust(16)  # fingerprints of what has no bytes
_GREY = 128
# More threads only wait: what Pillow does around a small image holds the interpreter's lock.
_THREADS = min(os.cpu_count() or 1, 8)
_MOST = 2**30  # bytes of the largest file that is read: Pillow's most pixels with 16 bits a colour
_SHOWN = 5  # skipped files that a warning names


@dataclass(frozen=True)
class Reading:
    """What came of a listing: the size of the pixels written, whose they are, why others are missing."""

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
    progress: Progress | None = None,
) -> Reading:
    """Decode every image and ``write`` its (3, h, w) bytes, in the listing's order.

    Raises:
        UserError: images of several sizes without a ``size``, no image that can be read, or, if ``strict``,
            one that cannot.
    """
    shape: tuple[int, ...] = ()
    kept: list[int] = []
    skipped: dict[str, str] = {}
    digest = blake2b(digest_size=16)
    total = len(listing.ids)
    with contextlib.closing(in_order(partial(_decoded, size), listing)) as results:
        for index, (fingerprint, pixels) in enumerate(results):
            digest.update(fingerprint)
            if isinstance(pixels, str):
                skipped[listing.ids[index]] = pixels
                if strict:
                    refuse_skipped(skipped)
            else:
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
    """Compute the digest that ``read_all`` would find, without decoding anything."""
    digest = blake2b(digest_size=16)
    for fingerprint in in_order(lambda blob: fetch(blob)[1], listing):
        digest.update(fingerprint)
    return digest.hexdigest()


def refuse_skipped(skipped: Mapping[str, str]) -> None:
    """Fail on the first image that could not be read.

    Raises:
        UserError: there is one.
    """
    for name, reason in skipped.items():
        advice = "mend or remove it, or have it skipped by doing without --strict"
        raise UserError(f"cannot read the image {name} ({reason}): {advice}.")


def skip_note(skipped: Mapping[str, str], read: int) -> str:
    """Say how many images could not be read, and the first of them."""
    # Like repr without its quotes: a line break in a name does not break the line.
    some = ", ".join(f"{repr(name)[1:-1]} ({reason})" for name, reason in list(skipped.items())[:_SHOWN])
    more = ", …" if len(skipped) > _SHOWN else ""
    total = read + len(skipped)
    return f"{len(skipped)} of {total} images could not be read and were skipped: {some}{more}"


def read_pixels(listing: Listing, rows: Iterable[int], size: int) -> UInt8[Tensor, "m 3 {size} {size}"]:
    """Decode the images of a few rows, in any order and as often as they are named, to squares.

    Other images are passed over, and one that cannot be read any more becomes grey.
    """
    wanted = list(rows)
    pixels = np.full((len(wanted), 3, size, size), _GREY, np.uint8)
    places: dict[int, list[int]] = {}
    for place, row in enumerate(wanted):
        places.setdefault(row, []).append(place)
    ordered = sorted(places)
    with contextlib.closing(_in_threads(partial(_decoded, size), _chosen(listing, ordered))) as results:
        for row, (_, found) in zip(ordered, results, strict=True):
            if isinstance(found, np.ndarray):
                pixels[places[row]] = found
    return torch.from_numpy(pixels)


def in_order(
    work: Callable[[Blob], Result], listing: Listing, start: int = 0, *, ahead: int = 0
) -> Generator[Result, None, None]:
    """Do ``work`` on every image from the row ``start`` on, in threads: Pillow decodes outside Python's lock.

    So many images are kept ``ahead`` at least, which are worked on while the caller does something else. Close it when
    you do not take all of its results (``contextlib.closing``), so that the threads end.
    """
    return _in_threads(work, listing.blobs_from(start), ahead)


def fetch(blob: Blob) -> tuple[bytes | Pixels | str, bytes]:
    """Get the bytes or pixels of an image, or why there are none; and their fingerprint of 16 bytes."""
    if blob is None:
        return "no bytes in the table", _NONE
    if isinstance(blob, np.ndarray):
        return blob, blake2b(np.ascontiguousarray(blob).data, digest_size=16).digest()
    try:
        if isinstance(blob, Path):
            blob = _whole(blob)
        elif isinstance(blob, Member):
            blob = blob.read()
    except UnreadableError as error:
        return str(error), _UNREAD
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        return (getattr(error, "strerror", None) or str(error)).lower(), _UNREAD
    except MemoryError:
        return NO_MEMORY, _UNREAD
    return blob, blake2b(blob, digest_size=16).digest()


def _whole(file: Path) -> bytes:
    check_regular(file)
    if (size := file.stat().st_size) > _MOST:
        raise UnreadableError(f"{size} bytes, too many for an image")
    return file.read_bytes()


def _in_threads(work: Callable[[Blob], Result], blobs: Iterator[Blob], ahead: int = 0) -> Generator[Result, None, None]:
    batches = iter(lambda: _batch(blobs), [])
    n_waiting = max(_THREADS, -(-ahead // _BATCH))
    results = in_threads(lambda part: [work(blob) for blob in part], batches, threads=_THREADS, ahead=n_waiting)
    with warnings.catch_warnings(), contextlib.closing(results):
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters is in the reasons
        for some in results:
            yield from some


def _batch(blobs: Iterator[Blob]) -> list[Blob]:
    """Take the next few images, fewer where their bytes are many."""
    batch: list[Blob] = []
    held = 0
    for blob in blobs:
        batch.append(blob)
        held += len(blob) if isinstance(blob, bytes) else 0
        if len(batch) == _BATCH or held > _HELD:
            break
    return batch


def _chosen(listing: Listing, ordered: Sequence[int]) -> Iterator[Blob]:
    """Take the images of ascending rows."""
    if len(listing.files):
        yield from (listing.files[row] for row in ordered)
    elif ordered:
        wanted = iter(ordered)
        row = next(wanted)
        for at, blob in enumerate(listing.blobs_from(row), row):
            if at == row:
                yield blob
                if (row := next(wanted, -1)) < 0:
                    return


def _decoded(size: int | None, blob: Blob) -> tuple[bytes, Pixels | str]:
    data, fingerprint = fetch(blob)
    if isinstance(data, str):
        return fingerprint, data
    if isinstance(data, np.ndarray):
        return fingerprint, data if size is None else resized(data, size)
    try:
        return fingerprint, decode(data, size)
    except UnreadableError as error:
        return fingerprint, str(error)


def _sizes_differ(names: tuple[str, str], shape: tuple[int, ...], odd: tuple[int, ...]) -> str:
    found = f"{names[0]} has {shape[2]}×{shape[1]} pixels, {names[1]} {odd[2]}×{odd[1]}"
    advice = "bring them to one, e.g. with --data.size 64 (size=64 in Python)"
    return f"the images have several sizes ({found}): {advice}."


def nothing_readable(skipped: Mapping[str, str]) -> str:
    """Say why there is no image to go on with."""
    if not skipped:
        return "there is no image in these files: they hold no rows."
    name, reason = next(iter(skipped.items()))
    return f"none of the {len(skipped)} images could be read; the first, {name}: {reason}."
