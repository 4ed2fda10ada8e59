"""How many rows two labellings share, pair by pair; and the scores that count pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64
from torch import Tensor

from shoal.errors import UserError

Labels = npt.NDArray[Any] | Tensor
"""Integers (n,) of any width, an array, a memory map or a tensor; negative means none."""

Numbers = Int64[np.ndarray, "_"]
Counted = tuple[Numbers, Numbers, Numbers]
"""Cluster and class of the pairs that occur, by index, and how often they do."""

TABLE = 2**24
"""Up to how many pairs of numbers are counted in a table (128 MB); beyond, the pairs that occur are listed."""

TABLE_ROWS, LIST_ROWS = 2**16, 2**22
"""Rows that are looked at at a time; what is made of them stays in a CPU's cache, or is worth a sort."""


@dataclass(frozen=True, eq=False)
class Contingency:
    """How many rows each pair of cluster and class shares, for the pairs that share any.

    Memory is that of the pairs, never clusters × classes or a number per row.
    """

    clusters: Int64[np.ndarray, "m"]
    """Numbered from 0 by ``cluster_ids``; the pairs are sorted by cluster, then by class."""
    classes: Int64[np.ndarray, "m"]
    """Numbered from 0 by ``class_ids``."""
    counts: Int64[np.ndarray, "m"]
    cluster_ids: Int64[np.ndarray, "k"]
    """The numbers that the clusters came with, ascending; none is without a row."""
    class_ids: Int64[np.ndarray, "c"]
    """The numbers that the classes came with, ascending; none is without a row."""
    ignored: int
    """Rows without a cluster or without a class: they count in nothing."""

    @classmethod
    def of(cls, pred: Labels, labels: Labels) -> Contingency:
        """Count the rows that have both a cluster and a class, in one pass or two over both.

        Numbers may be large or have gaps. They are fastest counted where the largest of both make at most ``TABLE``
        pairs.

        Raises:
            UserError: there are not as many of both, or they are no whole numbers.
        """
        pred, labels = map(_whole, (pred, labels))
        if len(pred) != len(labels):
            raise UserError(f"{len(pred)} clusters and {len(labels)} classes: give one of each for every row.")
        largest = [max(int(ids.max()), -1) if len(ids) else -1 for ids in (pred, labels)]
        if (largest[0] + 2) * (largest[1] + 2) <= TABLE:
            names = [np.arange(most + 1) for most in largest]
            *pairs, counts = _in_table(pred, labels, (largest[0] + 2, largest[1] + 2))
        else:
            names = [_present(ids, most) for ids, most in zip((pred, labels), largest, strict=True)]
            *pairs, counts = _in_list(pred, labels, names)
        (clusters, cluster_ids), (classes, class_ids) = map(_used, pairs, names)
        return cls(clusters, classes, counts, cluster_ids, class_ids, len(pred) - int(counts.sum()))

    def sizes(self) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "c"]]:
        """Rows in each cluster and in each class."""
        sides = ((self.clusters, self.cluster_ids), (self.classes, self.class_ids))
        of_cluster, of_class = (np.zeros(len(ids), dtype=np.int64) for _, ids in sides)
        np.add.at(of_cluster, self.clusters, self.counts)
        np.add.at(of_class, self.classes, self.counts)
        return of_cluster, of_class

    def adjusted_rand(self) -> float:
        """Pairs of rows agreed on beyond chance, 1 at best (Hubert and Arabie 1985); 1 where there is no pair."""
        together, in_cluster, in_class, pairs = self._pairs()
        # Whole numbers of any size: with most rows in one cluster the differences of floats would be nothing but noise.
        at_best = pairs * (in_cluster + in_class) - 2 * in_cluster * in_class
        # Chance does as well as the best when all rows are together in both, or apart in both: they agree.
        return 2 * (pairs * together - in_cluster * in_class) / at_best if at_best else 1.0

    def fowlkes_mallows(self) -> float:
        """Pairs together in both, over the geometric mean of those together in either (Fowlkes and Mallows 1983)."""
        together, in_cluster, in_class, _ = self._pairs()
        return together / math.sqrt(in_cluster * in_class) if together else 0.0

    def _pairs(self) -> tuple[int, int, int, int]:
        """Ordered pairs of rows that are together in both, in a cluster, in a class; and all pairs."""
        n = int(self.counts.sum())
        together, in_cluster, in_class = map(_pairs_within, (self.counts, *self.sizes()))
        return together, in_cluster, in_class, n * (n - 1)


def adjusted_rand(pred: Labels, labels: Labels) -> float:
    """Adjusted Rand index of two labellings, exact to the last digit for any number of rows; symmetric.

    Rows that are negative in either do not count; without a pair of rows left it is 1, as for equal labellings.

    Raises:
        UserError: there are not as many of both.
    """
    return Contingency.of(pred, labels).adjusted_rand()


def _pairs_within(sizes: Int64[np.ndarray, "s"]) -> int:
    """Σ s(s − 1). Few sizes are different: their sum is n, so at most √(2n) of them."""
    different, times = np.unique(sizes, return_counts=True)
    return sum(t * s * (s - 1) for s, t in zip(different.tolist(), times.tolist(), strict=True))


def _chunks(pred: Labels, labels: Labels, size: int) -> Iterator[tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]]:
    for start in range(0, len(pred), size):
        yield _part(pred, start, size), _part(labels, start, size)


def _part(ids: Labels, start: int, size: int) -> Int64[np.ndarray, "b"]:
    """A copy."""
    part = ids[start : start + size]
    return (part.cpu().numpy() if isinstance(part, Tensor) else part).astype(np.int64)


def _in_table(pred: Labels, labels: Labels, shape: tuple[int, int]) -> Counted:
    """By a table that has a row and a column for "none" as well."""
    table = np.zeros(shape, dtype=np.int64)
    for cluster, label in _chunks(pred, labels, TABLE_ROWS):
        np.maximum(cluster, -1, out=cluster)
        np.maximum(label, -1, out=label)
        cluster *= shape[1]
        cluster += label
        cluster += shape[1] + 1
        np.add.at(table.reshape(-1), cluster, 1)
    table = table[1:, 1:]
    clusters, classes = np.nonzero(table)
    return clusters, classes, table[clusters, classes]


def _in_list(pred: Labels, labels: Labels, names: list[Numbers]) -> Counted:
    """By sorting; chunks are merged whenever they have doubled the list."""
    merged, waiting = (np.zeros(0, dtype=np.int64),) * 2, []
    for cluster, label in _chunks(pred, labels, LIST_ROWS):
        known = (cluster >= 0) & (label >= 0)
        pairs = _index(names[0], cluster[known]) * len(names[1]) + _index(names[1], label[known])
        waiting.append(np.unique(pairs, return_counts=True))
        if sum(len(each) for each, _ in waiting) > len(merged[0]):
            merged, waiting = _merged([merged, *waiting]), []
    pairs, counts = _merged([merged, *waiting])
    return *np.divmod(pairs, max(len(names[1]), 1)), counts


def _merged(parts: list[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """One list of pairs and counts."""
    pairs, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(pairs, kind="stable")
    pairs, counts = pairs[order], counts[order]
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    return pairs[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _present(ids: Labels, largest: int) -> Numbers:
    """The numbers that occur, ascending, without negative ones."""
    if largest < max(len(ids), TABLE):
        seen = np.zeros(largest + 2, dtype=bool)
        for start in range(0, len(ids), TABLE_ROWS):
            seen[np.maximum(_part(ids, start, TABLE_ROWS), -1)] = True
        return np.flatnonzero(seen[:-1])  # the last is that of all negative ones
    found = np.zeros(0, dtype=np.int64)
    for start in range(0, len(ids), LIST_ROWS):
        # Without counts NumPy hashes, which is slower than sorting.
        found = np.unique(np.concatenate([found, _part(ids, start, LIST_ROWS)]), return_counts=True)[0]
    return found[found >= 0]


def _index(names: Int64[np.ndarray, "k"], ids: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
    """Where each number stands among the names."""
    consecutive = len(names) and names[-1] == len(names) - 1
    return ids if consecutive else np.searchsorted(names, ids)


def _used(
    index: Int64[np.ndarray, "m"], names: Int64[np.ndarray, "a"]
) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "k"]]:
    """Numbers afresh without the names that have no row, and the names left."""
    used = np.zeros(len(names), dtype=bool)
    used[index] = True
    return (np.cumsum(used) - 1)[index], names[used]


def _whole(ids: Labels) -> Labels:
    """Labels that are whole numbers in one dimension.

    Raises:
        UserError: they are not, or too large.
    """
    if isinstance(ids, Tensor):
        ids, whole = ids.detach(), not ids.is_floating_point() and not ids.is_complex()
    else:
        ids = np.asarray(ids)
        whole = ids.dtype.kind in "iu" or not ids.size
    if not whole or ids.ndim != 1:
        raise UserError(f"labels are {ids.dtype} {tuple(ids.shape)}: give whole numbers (n,), negative for none.")
    if ids.dtype == np.uint64 and len(ids) and int(ids.max()) > np.iinfo(np.int64).max:
        raise UserError(f"labels go up to {int(ids.max())}, which int64 does not hold: number them afresh.")
    return ids if len(ids) else np.zeros(0, dtype=np.int64)
