"""Images that occur more than once: the same file, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from shoal.clustering.neighbours import Neighbours
from shoal.results.tables import as_utf8, write_columns

ALIKE = 0.95
"""Cosine from which two images are near-duplicates.

``benchmarks/duplicates.py``: of recompressed, mirrored and slightly brightened photos most lie above; of 2 000
different photos none has another above 0.9.
"""


@dataclass(frozen=True)
class Duplicate:
    """An image of a group of duplicates; groups are numbered from 0.

    ``kind`` is exact if another image of the group is the same file, byte for byte; ``similarity`` is the cosine to
    the most similar other image of the group, 1 for an exact one.
    """

    group: int
    kind: Literal["exact", "near"]
    row: int
    similarity: float


def first_of_each(fingerprints: UInt8[Tensor, "n 16"]) -> Int64[Tensor, "n"]:
    """For each row the first row with the same fingerprint: itself, if it is the first or only one."""
    whole = np.ascontiguousarray(fingerprints.numpy()).view("V16")[:, 0]
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return torch.from_numpy(first[inverse].astype(np.int64))


def duplicates(first: Int64[Tensor, "n"], found: Neighbours, alike: float = ALIKE) -> list[Duplicate]:
    """Group the images of which there is another one, largest groups first.

    Near-duplicates of near-duplicates are in one group.

    Args:
        first: of ``first_of_each``.
        found: the neighbours of all rows that are the first with their fingerprint.
        alike: cosine from which two images are near-duplicates.
    """
    n, close = len(first), found.similarity >= alike
    one = torch.cat([found.rows[:, None].expand_as(found.index)[close], torch.arange(n)]).numpy()
    other = torch.cat([found.index[close], first]).numpy()
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(n, n))
    _, group = connected_components(links, directed=False)
    sizes = np.bincount(group)
    rows = np.flatnonzero(sizes[group] > 1)
    earliest = np.full(len(sizes), n)
    np.minimum.at(earliest, group, np.arange(n))
    order = np.lexsort((rows, earliest[group[rows]], -sizes[group[rows]]))
    exact = np.bincount(first.numpy(), minlength=n)[first.numpy()] > 1
    similarity = _most_alike(first, found)
    numbers: dict[int, int] = {}
    return [
        Duplicate(
            numbers.setdefault(int(group[row]), len(numbers)),
            "exact" if exact[row] else "near",
            row,
            1.0 if exact[row] else float(similarity[row]),
        )
        for row in rows[order].tolist()
    ]


def _most_alike(first: Int64[Tensor, "n"], found: Neighbours) -> Float[Tensor, "n"]:
    """Greatest cosine to another row, in either direction: the one may be among ten that are nearer to the other."""
    best = torch.full((len(first),), -torch.inf)
    if found.index.shape[1]:
        best[found.rows] = found.similarity[:, 0]
        known = found.index >= 0
        best.scatter_reduce_(0, found.index[known], found.similarity[known], "amax")
    return best[first].clamp(max=1.0)


def write_duplicates(found: Sequence[Duplicate], ids: Sequence[str], path: Path) -> None:
    """Write group, kind, id and similarity of each.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    write_columns(
        path,
        {
            "group": (pa.int64(), [each.group for each in found]),
            "kind": (pa.string(), [each.kind for each in found]),
            "id": (pa.string(), [as_utf8(ids[each.row]) for each in found]),
            "similarity": (pa.float32(), [each.similarity for each in found]),
        },
    )
