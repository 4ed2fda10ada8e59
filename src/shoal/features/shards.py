"""Shards: parts of the images that several processes embed at once, each in a folder of its own, until they become one.

FOLDER/shards/000000004096/   what follows from row 4 096 of the listing on, in the files of a folder of features

Whoever writes the folder takes them in, in order, and so does a later job of any number of processes. Where a shard
ends is what its journal says, so a process that was killed has written one as well, only a shorter one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from shoal.errors import UserError
from shoal.features.embedded import SHARDS, read_header, read_journal, stored_columns
from shoal.features.store import Store, check_idle, writing

Span: TypeAlias = tuple[int, int]
"""Rows of the listing: the first, and the one behind the last."""

_CHUNK = 16384
"""Images that are copied at once."""


def shard_folder(folder: Path, start: int) -> Path:
    """Where the shard goes that begins at a row."""
    return folder / SHARDS / f"{start:012}"


def shards_of(folder: Path) -> list[Store]:
    """The shards that a job has left, in order; those that hold nothing are removed.

    Raises:
        UserError: one is damaged, or a process is writing to it.
    """
    found = []
    within = folder / SHARDS
    for path in sorted(within.iterdir()) if within.is_dir() else []:
        header = read_header(path) if path.name.isdecimal() else None
        shard = None if header is None else Store(path, header)
        if shard is not None:
            check_idle(path)
        if shard is None or shard.done.looked_at <= int(path.name):
            shutil.rmtree(path, ignore_errors=True)
        else:
            found.append(shard)
    return found


def span_of(shard: Store) -> Span:
    """The rows that a shard has dealt with."""
    return int(shard.folder.name), shard.done.looked_at


def gaps(done: int, n: int, there: Sequence[Span]) -> list[Span]:
    """Rows that nobody has dealt with, of n of which the first ``done`` and some spans, in order, are there."""
    found, at = [], done
    for start, end in [*there, (n, n)]:
        if start > at:
            found.append((at, start))
        at = max(at, end)
    return found


def cut(spans: Sequence[Span], missing: Int64[np.ndarray, "m"], block: int, n_parts: int) -> list[list[Span]]:
    """Cut spans into parts of about as many images to compute, at the borders of blocks.

    Args:
        spans: rows of the listing, in order.
        missing: rows of the listing that have to be computed, ascending; ``block`` of them from the first on are a
            block, and so on.
        block: images of a block.
        n_parts: how many parts; some are empty where there are few blocks.

    Returns:
        For each part its spans, in order.
    """
    pieces: list[tuple[int, int, int]] = []
    for start, end in spans:
        first, last = np.searchsorted(missing, [start, end]).tolist()
        borders = [first, *range((first // block + 1) * block, last, block), last]
        rows = [start, *missing[borders[1:-1]].tolist(), end]
        pieces += [(rows[i], rows[i + 1], borders[i + 1] - borders[i]) for i in range(len(rows) - 1)]
    total, before = sum(n for *_, n in pieces) or 1, 0
    parts: list[list[Span]] = [[] for _ in range(n_parts)]
    for start, end, n in pieces:
        part = parts[min((2 * before + n) * n_parts // (2 * total), n_parts - 1)]
        before += n
        if part and part[-1][1] == start:
            part[-1] = (part[-1][0], end)
        else:
            part.append((start, end))
    return parts


def take_in(store: Store, shards: Sequence[Store], *, holes: bool = False) -> None:
    """Append shards to an open folder, as far as each follows what is there, and remove them.

    A chunk at a time, each of which is committed: killed on the way, it goes on from there.

    Args:
        store: the folder.
        shards: in order.
        holes: append also those that do not follow, for a folder that need not be whole.

    Raises:
        UserError: a shard is damaged, or the disk is full.
    """
    for shard in shards:
        if not shard.folder.is_dir() or (int(shard.folder.name) > store.done.looked_at and not holes):
            continue
        _append(store, shard)
        with writing(store.folder, store.done.kept):
            shutil.rmtree(shard.folder)
    within = store.folder / SHARDS
    if within.is_dir() and not any(within.iterdir()):
        within.rmdir()


def _append(store: Store, shard: Store) -> None:
    done, skipped, notes = read_journal(shard.folder)
    if done.looked_at <= store.done.looked_at:
        return
    header = read_header(shard.folder)
    assert header is not None
    store.keep_ranges({**header.ranges, **store.header.ranges})
    columns = stored_columns(shard.folder, done.kept)
    rows = columns["rows.i64"].reshape(-1).view(np.int64) if done.kept else np.zeros(0, np.int64)
    if done.kept and not (np.diff(rows) > 0).all():
        raise UserError(f"the features in {shard.folder} are damaged (rows are out of order): remove the folder.")
    first = int(np.searchsorted(rows, store.done.looked_at))
    for start in range(first, max(len(rows), first + 1), _CHUNK):
        part = slice(start, start + _CHUNK)
        last = done.looked_at if start + _CHUNK >= len(rows) else int(rows[start + _CHUNK])
        span = range(store.done.looked_at, last)
        if len(rows[part]):
            store.append_columns({name: column[part] for name, column in columns.items()})
        for row, reason in skipped.items():
            if row in span:
                store.skip(row, reason)
        store.note({row: note for row, note in notes.items() if row in span})
        store.commit(last, done.batch_size or store.done.batch_size)
