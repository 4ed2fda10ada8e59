"""Size and times of files, which show without reading them whether they have changed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from shoal.data.listing import Blob, Files, Frame, Listing, Member, Remote
from shoal.data.listing import FileStat as FileStat  # where it is used most
from shoal.data.threads import map_in_threads
from shoal.mapped import scratch

NO_STAT: FileStat = (-1, -1, -1)
"""For what is not a file, or is not there."""


def stat_file(file: str | Path) -> FileStat:
    """Size of a file in bytes, and when its content and its entry last changed, in nanoseconds.

    While these are the same, so is the content: unlike the first time, the second cannot be set by a program that
    restores a backup or copies "with times".
    """
    try:
        stat = os.stat(file)  # noqa: PTH116 - a Path for each of a million files is slow
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return NO_STAT
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


_CHUNK = 1024
"""Files that a thread asks for in a row."""

_THREADS = 8
"""More than there may be cores: on a network drive each call waits."""


def stat_files(
    files: Sequence[Path], rows: Sequence[int] | Int64[np.ndarray, "m"] | None = None
) -> Int64[np.ndarray, "m 3"]:
    """``stat_file`` of files, or of some of them, in threads."""
    wanted = range(len(files)) if rows is None else rows
    texts = (files.text(row) if isinstance(files, Files) else str(files[row]) for row in wanted)
    chunks = iter(lambda: [text for _, text in zip(range(_CHUNK), texts, strict=False)], [])

    def stat(chunk: list[str]) -> Int64[np.ndarray, "b 3"]:
        return np.array([stat_file(text) for text in chunk], np.int64)

    found, end = scratch((len(wanted), len(NO_STAT)), torch.int64).numpy(), 0
    with contextlib.closing(map_in_threads(stat, chunks, threads=_THREADS, ahead=2 * _THREADS)) as stats:
        for each in stats:
            found[end : end + len(each)] = each
            end += len(each)
    return found


def stat_of(blob: Blob) -> FileStat:
    """``stat_file`` of an image, as it is now or as its storage has listed it; ``NO_STAT`` for what has no file."""
    if isinstance(blob, Member | Remote):
        return blob.stat or NO_STAT
    if isinstance(blob, Frame):
        return blob.stat
    return stat_file(blob) if isinstance(blob, Path) else NO_STAT


def has_stats(listing: Listing) -> bool:
    """Whether the images of a listing are files, which have a size and times."""
    return len(listing.files) > 0 or listing.stats is not None


def stats_in(listing: Listing, rows: Sequence[int] | Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m 3"]:
    """``stat_file`` the files of some images, of a listing that has them."""
    return stat_files(listing.files, rows) if listing.stats is None else listing.stats[np.asarray(rows)]
