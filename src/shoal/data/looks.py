"""A look at a file: its size and timestamps, which show without reading it whether it has changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from shoal.data.listing import Blob, Files, Frame, Listing, Member, Remote
from shoal.data.listing import Look as Look  # where it is used most
from shoal.data.threads import map_in_threads
from shoal.mapped import scratch

NO_LOOK: Look = (-1, -1, -1)
"""In place of a look where there is no file."""


def look_at(file: str | Path) -> Look:
    """Size of a file in bytes, and when its content and its entry last changed, in nanoseconds.

    While these are the same, so is the content: unlike the first time, the second cannot be set by a program that
    restores a backup or copies "with times".
    """
    try:
        stat = os.stat(file)  # noqa: PTH116 - a Path for each of a million files is slow
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return NO_LOOK
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


_CHUNK = 1024
"""Files that a thread looks at in a row."""

_THREADS = 8
"""More than there may be cores: on a network drive, looking is waiting."""


def look_at_all(
    files: Sequence[Path], rows: Sequence[int] | Int64[np.ndarray, "m"] | None = None
) -> Int64[np.ndarray, "m 3"]:
    """``look_at`` files, or some of them, in threads."""
    wanted = range(len(files)) if rows is None else rows
    texts = (files.text(row) if isinstance(files, Files) else str(files[row]) for row in wanted)
    chunks = iter(lambda: [text for _, text in zip(range(_CHUNK), texts, strict=False)], [])

    def look(chunk: list[str]) -> Int64[np.ndarray, "b 3"]:
        return np.array([look_at(text) for text in chunk], np.int64)

    found, end = scratch((len(wanted), len(NO_LOOK)), torch.int64).numpy(), 0
    with contextlib.closing(map_in_threads(look, chunks, threads=_THREADS, ahead=2 * _THREADS)) as looks:
        for each in looks:
            found[end : end + len(each)] = each
            end += len(each)
    return found


def look_of(blob: Blob) -> Look:
    """``look_at`` the file of an image, as it is now or as its storage told; ``NO_LOOK`` for what has none."""
    if isinstance(blob, Member | Remote):
        return blob.look or NO_LOOK
    if isinstance(blob, Frame):
        return blob.look
    return look_at(blob) if isinstance(blob, Path) else NO_LOOK


def has_looks(listing: Listing) -> bool:
    """Whether the images of a listing are files that can be looked at."""
    return len(listing.files) > 0 or listing.looks is not None


def looks_in(listing: Listing, rows: Sequence[int] | Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m 3"]:
    """``look_at`` the files of some images, of a listing that has them."""
    return look_at_all(listing.files, rows) if listing.looks is None else listing.looks[np.asarray(rows)]
