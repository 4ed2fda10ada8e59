"""Decoding all images of a listing, several at a time and in order, without ever holding them all."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from shoal.data.decode import UnreadableError, decode, resized
from shoal.data.listing import Blob, Listing, Pixels, check_regular
from shoal.errors import UserError

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many images are done, of how many; while they are downloaded, what share of them has come."""

Result = TypeVar("Result")
_BATCH = 16  # images that a thread takes at once: one at a time, the threads would wait for each other
# More threads only wait: what Pillow does around a small image holds the interpreter's lock.
_THREADS = min(os.cpu_count() or 1, 8)


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
    with contextlib.closing(_in_order(partial(_decoded, size), listing)) as results:
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
        raise UserError(_nothing_readable(skipped))
    return Reading(shape[1], shape[2], kept, skipped, digest.hexdigest())


def content_digest(listing: Listing) -> str:
    """Compute the digest that ``read_all`` would find, without decoding anything."""
    digest = blake2b(digest_size=16)
    for fingerprint in _in_order(lambda blob: _fetch(blob)[1], listing):
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


def _in_order(work: Callable[[Blob], Result], listing: Listing) -> Generator[Result, None, None]:
    """Do ``work`` on every image, in threads: Pillow decodes outside of the interpreter's lock."""
    blobs = listing.blobs()
    waiting: deque[Future[list[Result]]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what matters is in the reasons
        try:
            while batch := list(islice(blobs, _BATCH)):
                waiting.append(pool.submit(lambda part: [work(blob) for blob in part], batch))
                if len(waiting) > _THREADS:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch(blob: Blob) -> tuple[bytes | Pixels | str, bytes]:
    """Get the bytes or pixels of an image, or why there are none; and their fingerprint."""
    if blob is None:
        return "no bytes in the table", b"none"
    if isinstance(blob, np.ndarray):
        return blob, blake2b(np.ascontiguousarray(blob).data, digest_size=16).digest()
    if isinstance(blob, Path):
        try:
            check_regular(blob)
            blob = blob.read_bytes()
        except OSError as error:
            return (error.strerror or str(error)).lower(), b"unread"
    return blob, blake2b(blob, digest_size=16).digest()


def _decoded(size: int | None, blob: Blob) -> tuple[bytes, Pixels | str]:
    data, fingerprint = _fetch(blob)
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


def _nothing_readable(skipped: dict[str, str]) -> str:
    if not skipped:
        return "there is no image in these files: they hold no rows."
    name, reason = next(iter(skipped.items()))
    return f"none of the {len(skipped)} images could be read; the first, {name}: {reason}."
