"""Images that occur more than once: the same file, or nearly the same picture; and which of them to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float32, Int8, Int32, Int64, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from shoal.data.equal import later_copies
from shoal.results.copies import Pairs
from shoal.results.tables import ROWS, as_utf8, write_table

SHARP = 0.9
"""Images of so much of the greatest sharpness of their group count as equally sharp: then the larger file is better."""

SCHEMA = pa.schema(
    [
        *(("group", pa.int64()), ("kind", pa.string()), ("id", pa.string()), ("similarity", pa.float32())),
        *(("keep", pa.bool_()), ("width", pa.int64()), ("height", pa.int64()), ("bytes", pa.int64())),
    ]
)

_READ = 2**18

KINDS = ("near", "exact", "link")


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Images of groups of duplicates, group by group; groups are numbered from 0, the largest first.

    An image is exact if another image of the group is the same file, byte for byte, and a link if it is another name
    of a file that the group has already.
    """

    group: Int64[np.ndarray, "m"]
    kind: Int8[np.ndarray, "m"]
    """Place among ``KINDS``."""
    row: Int64[np.ndarray, "m"]
    similarity: Float32[np.ndarray, "m"]
    """Cosine to the most similar copy, 1 for an exact one."""
    keep: Int8[np.ndarray, "m"]
    """1 for the best file of the group, under all its names, 0 for others, −1 where too little is known of them."""

    def __len__(self) -> int:
        return len(self.row)


def duplicates(
    first: Int64[Tensor, "n"],
    pairs: Pairs,
    ids: Sequence[str],
    *,
    links: Int64[Tensor, "m 2"] | None = None,
    sketches: Shaped[np.ndarray, "n"] | None = None,
) -> Duplicates:
    """Group the images that have a copy, largest groups first; in each the one to keep comes first.

    Copies of copies are in one group. A group of a file's names alone is none: nothing would be gained by removing one.
    Memory is that of the images that are in groups.

    Args:
        first: of ``first_of_each``.
        pairs: the copies among rows that are the first with their fingerprint.
        ids: names of all images.
        links: rows that are other names of a file, and the row of that file.
        sketches: of all images, by which the best one is chosen.
    """
    rows = _touched(first, pairs, links)
    place = _Places(rows)
    leader = place.of(first[torch.from_numpy(rows)].numpy())
    file = np.arange(len(rows), dtype=np.int32)
    if links is not None:
        file[place.of(links[:, 0].numpy())] = place.of(links[:, 1].numpy())
    one, other = (place.of(side.numpy()) for side in (pairs.one, pairs.other))
    copies = np.bincount(leader[file == np.arange(len(rows))], minlength=len(rows))[leader]
    similarity = np.full(len(rows), -np.inf, np.float32)
    for side in (one, other):
        np.maximum.at(similarity, side, pairs.similarity.numpy())
    similarity = np.minimum(similarity[leader], 1)
    order, group = _groups(leader, file, one, other)
    best = np.full(len(order), -1) if sketches is None else _best(rows, file[order], group, ids, sketches)
    keep = np.where(best < 0, -1, file[order] == best)
    order, group, keep = (each[np.lexsort((-keep, group))] for each in (order, group, keep))
    exact = copies[order] > 1
    kind = np.where(file[order] != order, 2, exact)
    shown = np.where(exact | ~np.isfinite(similarity[order]), np.float32(1), similarity[order])
    return Duplicates(group, kind.astype(np.int8), rows[order], shown, keep.astype(np.int8))


def _touched(first: Int64[Tensor, "n"], pairs: Pairs, links: Int64[Tensor, "l 2"] | None) -> Int64[np.ndarray, "m"]:
    """Rows that are in a pair, equal to another, or another name of a file, ascending."""
    copies = later_copies(first)
    found = [copies, first[torch.from_numpy(copies)].numpy(), pairs.one.numpy(), pairs.other.numpy()]
    found += [] if links is None else [links.flatten().numpy()]
    return np.unique(np.concatenate(found))


@dataclass(frozen=True, eq=False)
class _Places:
    """Places of rows among some, fewer than 2³¹."""

    rows: Int64[np.ndarray, "m"]

    def of(self, rows: Int64[np.ndarray, "b"]) -> Int32[np.ndarray, "b"]:
        return np.searchsorted(self.rows, rows).astype(np.int32)


def _groups(
    leader: Int32[np.ndarray, "m"],
    file: Int32[np.ndarray, "m"],
    one: Int32[np.ndarray, "p"],
    other: Int32[np.ndarray, "p"],
) -> tuple[Int64[np.ndarray, "g"], Int64[np.ndarray, "g"]]:
    """Places in groups of at least two files, and their groups: the largest first, then that of the earliest row."""
    n = len(leader)
    own = np.arange(n, dtype=np.int32)
    copied, named = np.flatnonzero(leader != own), np.flatnonzero(file != own)
    ends = np.concatenate([one, copied, named]), np.concatenate([other, leader[copied], file[named]])
    links = coo_array((np.ones(len(ends[0])), ends), shape=(n, n))  # in the type that the search makes of it
    _, group = connected_components(links, directed=False)
    sizes, files = np.bincount(group), np.bincount(group[file == own])
    rows = np.flatnonzero(files[group] > 1)
    if not len(rows):
        return rows, rows
    earliest = np.full(len(sizes), n)
    np.minimum.at(earliest, group, own)
    order = rows[np.lexsort((rows, earliest[group[rows]], -sizes[group[rows]]))]
    return order, np.cumsum(np.append(0, np.diff(group[order]) != 0))


def _best(
    rows: Int64[np.ndarray, "m"],
    file: Int32[np.ndarray, "g"],
    group: Int64[np.ndarray, "g"],
    ids: Sequence[str],
    sketches: Shaped[np.ndarray, "n"],
) -> Int64[np.ndarray, "g"]:
    """The best file of the group of each place, −1 where sizes are unknown.

    That with the most pixels, then the sharpest, the largest, that of most names, that of the shortest name.

    Args:
        rows: of all images that may be in groups.
        file: place among these of the file of each name.
        group: of each, ascending.
        ids: names of all rows.
        sketches: of all rows.
    """
    if not len(file):
        return file
    files, names = np.unique(file, return_counts=True)  # a file is in one group
    own = np.empty(len(files), np.int64)
    own[np.searchsorted(files, file)] = group
    order = np.argsort(own, kind="stable")
    files, names, own = files[order], names[order], own[order]
    starts = np.flatnonzero(np.append(True, np.diff(own) != 0))
    seen = _seen(sketches, rows[files])
    left = np.minimum.reduceat((seen["width"] > 0).astype(np.int8), starts)[own] > 0
    for value, share in (
        (seen["width"].astype(np.float64) * seen["height"], 1.0),
        (seen["sharpness"].astype(np.float64), SHARP),
        (seen["bytes"].astype(np.float64), 1.0),
        (names.astype(np.float64), 1.0),  # removed, it would leave links that lead nowhere
    ):
        most = np.maximum.reduceat(np.where(left, value, -np.inf), starts)[own]
        left &= value >= share * most
    places = np.flatnonzero(left)
    lengths = np.array([len(ids[row]) for row in rows[files[places]].tolist()], np.int64)
    places = places[np.lexsort((files[places], lengths, own[places]))]
    best = np.full(int(own[-1]) + 1, -1)
    chosen = places[np.append(True, np.diff(own[places]) != 0)[: len(places)]]
    best[own[chosen]] = files[chosen]
    found: Int64[np.ndarray, "g"] = best[group]
    return found


def _seen(sketches: Shaped[np.ndarray, "n"], rows: Int64[np.ndarray, "m"]) -> Shaped[np.ndarray, "m"]:
    """What is known of some images, without their thumbnails."""
    names = ("width", "height", "sharpness", "bytes")
    found = np.empty(len(rows), [(name, sketches.dtype[name]) for name in names])
    for start in range(0, len(rows), _READ):
        part = sketches[rows[start : start + _READ]]
        for name in names:
            found[name][start : start + _READ] = part[name]
    return found


def write_duplicates(
    found: Duplicates, ids: Sequence[str], path: Path, sketches: Shaped[np.ndarray, "n"] | None = None
) -> None:
    """Write group, kind, id, similarity and whether to keep each, and its size as far as it is known.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    write_table(path, SCHEMA, (_table(found, ids, sketches, start) for start in range(0, max(len(found), 1), ROWS)))


def _table(
    found: Duplicates, ids: Sequence[str], sketches: Shaped[np.ndarray, "n"] | None, start: int
) -> pa.RecordBatch:
    part = slice(start, start + ROWS)
    rows, keep = found.row[part], found.keep[part]
    if sketches is None:
        sizes = [pa.nulls(len(rows), pa.int64())] * 3
    else:
        seen = _seen(sketches, rows)
        unknown = seen["width"] == 0
        sizes = [pa.array(seen[name].astype(np.int64), mask=unknown) for name in ("width", "height", "bytes")]
    columns = [
        pa.array(found.group[part]),
        pa.array([KINDS[kind] for kind in found.kind[part].tolist()], pa.string()),
        pa.array([as_utf8(ids[row]) for row in rows.tolist()], pa.string()),
        pa.array(found.similarity[part]),
        pa.array(keep == 1, mask=keep < 0),
        *sizes,
    ]
    return pa.record_batch(columns, SCHEMA)
