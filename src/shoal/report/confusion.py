"""Which classes went to which clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.evaluation.metrics import matched_confusion
from shoal.report.galleries import class_name
from shoal.types import Clustering, Images

MAX_TABLE = 24
"""Classes or clusters beyond which a table no longer fits a page."""

MAX_MIXUPS = 12


@dataclass(frozen=True)
class Cell:
    """Images of a class in a cluster, their share of the class, and whether the two were matched."""

    count: int
    share: float
    matched: bool


@dataclass(frozen=True)
class ClassRow:
    """A class, a cell for each cluster."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Mixup:
    """Images of class ``name`` in a cluster that was matched to the class ``instead`` (or to none: empty)."""

    name: str
    cluster: int
    instead: str
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Classes against clusters, matches on the diagonal; too large a table has no rows."""

    clusters: Sequence[int]
    rows: Sequence[ClassRow]
    mixups: Sequence[Mixup]


def confusion(images: Images, clustering: Clustering) -> Confusion | None:
    """Clusters against the classes that the Hungarian method matches them to, or nothing without labels."""
    counts, matches = matched_confusion(images.labels, clustering.labels, len(clustering.centers))
    if not counts.any():
        return None
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    matched_to = {cluster: label for label, cluster in matches}
    order = [cluster for _, cluster in matches]
    order += [cluster for cluster in range(counts.shape[1]) if cluster not in matched_to]
    names = [class_name(images, label) for label in range(len(counts))]
    rows = [
        ClassRow(name, [Cell(int(counts[i, j]), float(shares[i, j]), matched_to.get(j) == i) for j in order])
        for i, name in enumerate(names)
    ]
    mixups = [
        Mixup(
            names[i],
            j,
            names[matched_to[j]] if j in matched_to else "",
            int(counts[i, j]),
            float(shares[i, j]),
        )
        for i, j in _largest(counts)
        if matched_to.get(j) != i
    ]
    fits = max(counts.shape) <= MAX_TABLE
    return Confusion(order, rows if fits else [], mixups[:MAX_MIXUPS])


def _largest(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Find the places of the counts above zero, largest first."""
    order = np.argsort(-counts, axis=None, kind="stable")[: int((counts > 0).sum())]
    return [(int(place) // counts.shape[1], int(place) % counts.shape[1]) for place in order]
