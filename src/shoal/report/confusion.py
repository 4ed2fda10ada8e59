"""Confusion of classes and clusters (confusion.html.jinja)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from shoal.clustering.contingency import Contingency
from shoal.evaluation.metrics import matched_confusion
from shoal.report.data import class_name
from shoal.types import Clustering, Images

MAX_TABLE = 24
"""Classes or clusters beyond which the table is left out."""

MAX_MIXUPS = 12


@dataclass(frozen=True)
class Cell:
    """Images of a class in a cluster, as a number and as a share of the class, and whether the two are matched."""

    count: int
    share: float
    matched: bool


@dataclass(frozen=True)
class ClassRow:
    """A class with a cell per cluster."""

    name: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Mixup:
    """Images of class ``name`` in a cluster that is matched to the class ``instead`` (empty: to none)."""

    name: str
    cluster: int
    instead: str
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Classes against clusters, with the matches on the diagonal; no rows if the table is too large."""

    clusters: Sequence[int]
    rows: Sequence[ClassRow]
    mixups: Sequence[Mixup]


def confusion(images: Images, clustering: Clustering) -> Confusion | None:
    """Classes against clusters, matched by the Hungarian algorithm; None without labels."""
    k = len(clustering.centers)
    table, matches = matched_confusion(images.targets, clustering.labels, k)
    if not len(table.counts):
        return None
    matched_to = {cluster: label for label, cluster in matches}
    held = torch.bincount(clustering.labels[clustering.labels >= 0], minlength=k)
    order = [*matched_to, *(cluster for cluster in range(k) if held[cluster] and cluster not in matched_to)]
    fits = max(k, len(table.class_ids)) <= MAX_TABLE
    return Confusion(order, _rows(images, table, order, matched_to) if fits else [], _mixups(images, table, matched_to))


def _rows(
    images: Images, table: Contingency, order: Sequence[int], matched_to: Mapping[int, int]
) -> Sequence[ClassRow]:
    """A row for each class that has a clustered image."""
    counts = np.zeros((len(table.class_ids), 1 + max(order)), dtype=np.int64)  # numbers may have gaps
    counts[table.classes, table.cluster_ids[table.clusters]] = table.counts
    shares = counts / counts.sum(axis=1, keepdims=True)
    return [
        ClassRow(
            class_name(images, label),
            [Cell(int(counts[i, j]), float(shares[i, j]), matched_to.get(j) == label) for j in order],
        )
        for i, label in enumerate(table.class_ids.tolist())
    ]


def _mixups(images: Images, table: Contingency, matched_to: Mapping[int, int]) -> Sequence[Mixup]:
    """The most frequent ones."""
    in_class = table.sizes()[1]
    found: list[Mixup] = []
    for pair in np.lexsort((table.clusters, table.classes, -table.counts)).tolist():
        label, cluster = int(table.class_ids[table.classes[pair]]), int(table.cluster_ids[table.clusters[pair]])
        instead, count = matched_to.get(cluster), int(table.counts[pair])
        if instead != label:
            name, share = class_name(images, label), count / int(in_class[table.classes[pair]])
            found.append(Mixup(name, cluster, "" if instead is None else class_name(images, instead), count, share))
        if len(found) == MAX_MIXUPS:
            break
    return found
