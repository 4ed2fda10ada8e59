"""The images that stand for a cluster, and those that hardly belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.grouping import groups_of, least
from shoal.results.copies import ALIKE
from shoal.results.rows import Assignments
from shoal.results.tables import as_utf8, write_columns

PER_ROLE = 10
"""Images of each cluster and role."""

_CANDIDATES = 20 * PER_ROLE
"""The most central, among which images that are alike are shown once."""


@dataclass(frozen=True)
class Representative:
    """A row of the table; ``rank`` counts from 1, ``row`` is that of the features."""

    cluster: int
    role: Literal["central", "doubtful"]
    rank: int
    row: int


def representatives(
    features: Float[Tensor, "n d"], assigned: Assignments, alike: float = ALIKE
) -> list[Representative]:
    """Of each cluster the most central images, nearest to its centre first, then the most doubtful ones.

    Of central images that are ``alike``, by their cosine, only the first is taken. Doubtful are those of
    least confidence, and among equals of least margin; where there is a single cluster, none.
    """
    labels = assigned.labels
    found: list[Representative] = []
    n_clusters = 1 + int(labels.max()) if len(labels) else 0
    for cluster, own in groups_of(labels, n_clusters):
        central = _apart(features, _inwards(assigned, least(assigned.distance, own, _CANDIDATES)), alike)
        found += [Representative(cluster, "central", rank, row) for rank, row in enumerate(central, 1)]
        doubtful = _doubtful(assigned, own, central)
        found += [Representative(cluster, "doubtful", rank, row) for rank, row in enumerate(doubtful, 1)]
    several = len({each.cluster for each in found}) > 1
    return found if several else [each for each in found if each.role == "central"]


def _inwards(assigned: Assignments, rows: Int64[Tensor, "m"]) -> Int64[Tensor, "m"]:
    """Rows of a cluster, nearest to its centre first."""
    return rows[torch.argsort(assigned.distance[rows], stable=True)]


def _apart(features: Float[Tensor, "n d"], own: Int64[Tensor, "m"], alike: float) -> list[int]:
    candidates = own[:_CANDIDATES]
    x = normalize(features[candidates].float())
    chosen: list[int] = []
    for place in range(len(candidates)):
        if not (x[chosen] @ x[place] >= alike).any():
            chosen.append(place)
        if len(chosen) == PER_ROLE:
            break
    rows: list[int] = candidates[chosen].tolist()
    return rows


def _doubtful(assigned: Assignments, own: Int64[Tensor, "m"], central: Sequence[int]) -> list[int]:
    rest = own[~torch.isin(own, torch.tensor(central, dtype=torch.int64))]
    rest = _inwards(assigned, least(assigned.confidence, rest, PER_ROLE))
    order = np.lexsort((assigned.margin[rest].numpy(), assigned.confidence[rest].numpy()))
    rows: list[int] = rest[torch.from_numpy(order[:PER_ROLE])].tolist()
    return rows


def write_representatives(found: Sequence[Representative], ids: Sequence[str], path: Path) -> None:
    """Write cluster, role, rank and id of each.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    write_columns(
        path,
        {
            "cluster": (pa.int64(), [each.cluster for each in found]),
            "role": (pa.string(), [each.role for each in found]),
            "rank": (pa.int64(), [each.rank for each in found]),
            "id": (pa.string(), [as_utf8(ids[each.row]) for each in found]),
        },
    )
