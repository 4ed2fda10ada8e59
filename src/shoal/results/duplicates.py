"""Images that occur more than once: the same file, or nearly the same picture; and which of them to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from shoal.clustering.rows import distinct_rows
from shoal.results.copies import Pairs
from shoal.results.tables import as_utf8, write_columns

SHARP = 0.9
"""Images of so much of the greatest sharpness of their group count as equally sharp: then the larger file is better."""


@dataclass(frozen=True)
class Duplicate:
    """An image of a group of duplicates; groups are numbered from 0.

    ``kind`` is exact if another image of the group is the same file, byte for byte, and link if it is another name of a
    file that the group has already. ``similarity`` is the cosine to the most similar copy, 1 for an exact one. ``keep``
    marks the best file of the group, under all its names; None where too little is known of the images.
    """

    group: int
    kind: Literal["exact", "near", "link"]
    row: int
    similarity: float
    keep: bool | None = None


def first_of_each(fingerprints: UInt8[Tensor, "n 16"]) -> Int64[Tensor, "n"]:
    """For each row the first row with the same fingerprint: itself, if it is the first or only one."""
    first, which = distinct_rows(fingerprints)
    return first[which]


def duplicates(
    first: Int64[Tensor, "n"],
    pairs: Pairs,
    ids: Sequence[str],
    *,
    links: Int64[Tensor, "m 2"] | None = None,
    sketches: Shaped[np.ndarray, "n"] | None = None,
) -> list[Duplicate]:
    """Group the images of which there is another one, largest groups first; in each the one to keep comes first.

    Copies of copies are in one group. A group of a file's names alone is none: nothing would be gained by removing one.

    Args:
        first: of ``first_of_each``.
        pairs: the copies among rows that are the first with their fingerprint.
        ids: names of all images.
        links: rows that are other names of a file, and the row of that file.
        sketches: of all images, by which the best one is chosen.
    """
    file = np.arange(len(first))
    if links is not None:
        file[links[:, 0].numpy()] = links[:, 1].numpy()
    copies = np.bincount(first.numpy()[file == np.arange(len(file))], minlength=len(first))[first.numpy()]
    similarity = torch.full((len(first),), -torch.inf)
    for side in (pairs.one, pairs.other):
        similarity.scatter_reduce_(0, side, pairs.similarity, "amax")
    similarity = similarity[first].clamp(max=1.0)
    found = []
    for number, rows in enumerate(_groups(first, pairs, file)):
        best = None if sketches is None else _best(file[rows], ids, sketches)
        keep = np.zeros(len(rows), bool) if best is None else file[rows] == best
        for row, kept in sorted(zip(rows.tolist(), keep.tolist(), strict=True), key=lambda one: not one[1]):
            exact = bool(copies[row] > 1)
            found.append(
                Duplicate(
                    number,
                    "link" if file[row] != row else "exact" if exact else "near",
                    row,
                    1.0 if exact or not torch.isfinite(similarity[row]) else float(similarity[row]),
                    None if best is None else kept,
                )
            )
    return found


def _groups(first: Int64[Tensor, "n"], pairs: Pairs, file: Int64[np.ndarray, "n"]) -> Iterator[Int64[np.ndarray, "g"]]:
    """Rows of each group of at least two files: ascending, the largest group first, then that of the earliest row."""
    n = len(first)
    one = np.concatenate([pairs.one.numpy(), np.arange(n), np.arange(n)])
    other = np.concatenate([pairs.other.numpy(), first.numpy(), file])
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(n, n))
    _, group = connected_components(links, directed=False)
    sizes, files = np.bincount(group), np.bincount(group[file == np.arange(n)])
    rows = np.flatnonzero(files[group] > 1)
    if not len(rows):
        return
    earliest = np.full(len(sizes), n)
    np.minimum.at(earliest, group, np.arange(n))
    order = rows[np.lexsort((rows, earliest[group[rows]], -sizes[group[rows]]))]
    yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _best(files: Int64[np.ndarray, "g"], ids: Sequence[str], sketches: Shaped[np.ndarray, "n"]) -> int | None:
    """The file with the most pixels, then the sharpest, the largest, that of most names, that of the shortest name.

    Args:
        files: row of the file of each name in a group.
        ids: names of all rows.
        sketches: of all rows.
    """
    rows, names = np.unique(files, return_counts=True)
    seen = sketches[rows]
    if not seen["width"].all():
        return None
    pixels = seen["width"].astype(np.int64) * seen["height"]
    left: Bool[np.ndarray, "g"] = pixels == pixels.max()
    left &= seen["sharpness"] >= SHARP * seen["sharpness"][left].max()
    left &= seen["bytes"] == seen["bytes"][left].max()
    left &= names == names[left].max()  # removed, it would leave links that lead nowhere
    return int(min(rows[left].tolist(), key=lambda row: (len(ids[row]), row)))


def write_duplicates(
    found: Sequence[Duplicate], ids: Sequence[str], path: Path, sketches: Shaped[np.ndarray, "n"] | None = None
) -> None:
    """Write group, kind, id, similarity and whether to keep each, and its size as far as it is known.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    seen = None if sketches is None else sketches[[each.row for each in found]]

    def sizes(name: str) -> list[int | None]:
        if seen is None:
            return [None] * len(found)
        return [int(value) if known else None for value, known in zip(seen[name], seen["width"], strict=True)]

    write_columns(
        path,
        {
            "group": (pa.int64(), [each.group for each in found]),
            "kind": (pa.string(), [each.kind for each in found]),
            "id": (pa.string(), [as_utf8(ids[each.row]) for each in found]),
            "similarity": (pa.float32(), [each.similarity for each in found]),
            "keep": (pa.bool_(), [each.keep for each in found]),
            "width": (pa.int64(), sizes("width")),
            "height": (pa.int64(), sizes("height")),
            "bytes": (pa.int64(), sizes("bytes")),
        },
    )
