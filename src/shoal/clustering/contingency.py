"""How many rows two labellings share, pair by pair; and the scores that count pairs of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.errors import UserError

Labels = npt.NDArray[Any] | Tensor | Sequence[Any]
"""Labels (n,) of rows: an array, a memory map, a tensor or a list, of whole numbers, of which negative ones mean none,
or of names, bools or other numbers, of which equal ones mean the same."""

TABLE = 2**24
"""Up to this many pairs of numbers are counted in a dense table (128 MB); beyond, the pairs that occur are sorted."""

TABLE_ROWS, SORTED_ROWS = 2**16, 2**22
"""Rows taken at a time: for the table they stay in a CPU's cache, for a list they are worth sorting."""


@dataclass(frozen=True, eq=False)
class Contingency:
    """How many rows each pair of cluster and class shares, for the pairs that share any.

    Memory is that of the pairs, never clusters × classes beyond ``TABLE`` or a number per row.
    """

    clusters: Int64[np.ndarray, "m"]
    """Indices into ``cluster_ids``; the pairs are sorted by cluster, then by class."""
    classes: Int64[np.ndarray, "m"]
    """Indices into ``class_ids``."""
    counts: Int64[np.ndarray, "m"]
    cluster_ids: Int64[np.ndarray, "k"]
    """The clusters' own numbers, ascending; each has a row."""
    class_ids: Int64[np.ndarray, "c"]
    """The classes' own numbers, ascending; each has a row."""
    ignored: int
    """Rows without a cluster or without a class, which count in nothing."""

    @classmethod
    def of(cls, pred: Labels, labels: Labels) -> Contingency:
        """Count the rows that have both a cluster and a class, in one pass.

        Numbers may be large or have gaps; they are counted fastest if the largest of both span at most ``TABLE`` pairs.

        Raises:
            UserError: different numbers of rows, or labels that are not numbers or names (n,).
        """
        pred, labels = (whole_labels(each)[0] for each in (pred, labels))
        if len(pred) != len(labels):
            raise UserError(f"{len(pred)} clusters and {len(labels)} classes: give one of each for every row.")
        shape = tuple(max(int(ids.max()), -1) + 2 if len(ids) else 1 for ids in (pred, labels))
        count = _dense if shape[0] * shape[1] <= TABLE else _sparse
        cluster, label, counts = count(pred, labels, shape)
        cluster_ids, clusters = np.unique(cluster, return_inverse=True)
        class_ids, classes = np.unique(label, return_inverse=True)
        return cls(clusters, classes, counts, cluster_ids, class_ids, len(pred) - int(counts.sum()))

    def sizes(self) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "c"]]:
        """Rows in each cluster and in each class."""
        of_cluster, of_class = (np.zeros(len(ids), dtype=np.int64) for ids in (self.cluster_ids, self.class_ids))
        np.add.at(of_cluster, self.clusters, self.counts)  # bincount's weights are floats, which round
        np.add.at(of_class, self.classes, self.counts)
        return of_cluster, of_class

    def adjusted_rand(self) -> float:
        """Pairs of rows agreed on beyond chance, 1 at best (Hubert and Arabie 1985); 1 where there is no pair."""
        together, in_cluster, in_class, pairs = self._pairs()
        # Python's integers are exact: with most rows in one cluster the differences of floats would be mere rounding.
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
        UserError: different numbers of rows.
    """
    return Contingency.of(pred, labels).adjusted_rand()


def _pairs_within(sizes: Int64[np.ndarray, "s"]) -> int:
    """Σ s(s − 1). There are few different sizes: since they sum to n, at most √(2n)."""
    different, times = np.unique(sizes, return_counts=True)
    return sum(t * s * (s - 1) for s, t in zip(different.tolist(), times.tolist(), strict=True))


Numbers = npt.NDArray[Any] | Tensor

Counted = tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]
"""Cluster, class and number of rows of each pair that occurs, sorted."""


def _dense(pred: Numbers, labels: Numbers, shape: tuple[int, ...]) -> Counted:
    """By a table with a row and a column for "none" as well."""
    table = np.zeros(shape, dtype=np.int64)
    for start in range(0, len(pred), TABLE_ROWS):
        cluster, label = (np.maximum(_chunk(ids, start, TABLE_ROWS), -1) + 1 for ids in (pred, labels))
        np.add.at(table.reshape(-1), cluster * shape[1] + label, 1)
    clusters, classes = np.nonzero(table[1:, 1:])
    return clusters, classes, table[clusters + 1, classes + 1]


def _sparse(pred: Numbers, labels: Numbers, _shape: tuple[int, ...]) -> Counted:
    """By sorting chunks, which are merged whenever they have doubled the list of pairs."""
    merged, waiting, n_waiting = _none(), [], 0
    for start in range(0, len(pred), SORTED_ROWS):
        cluster, label = (_chunk(ids, start, SORTED_ROWS) for ids in (pred, labels))
        known = (cluster >= 0) & (label >= 0)
        waiting.append(_summed([(cluster[known], label[known], np.ones(int(known.sum()), dtype=np.int64))]))
        n_waiting += len(waiting[-1][0])
        if n_waiting > len(merged[0]):
            merged, waiting, n_waiting = _summed([merged, *waiting]), [], 0
    return _summed([merged, *waiting])


def _none() -> Counted:
    nothing = np.zeros(0, dtype=np.int64)
    return nothing, nothing, nothing


def _summed(parts: list[Counted]) -> Counted:
    """The pairs of several lists, each once, with the sum of its counts."""
    clusters, classes, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((classes, clusters))
    clusters, classes, counts = clusters[order], classes[order], counts[order]
    first = np.ones(len(counts), dtype=bool)
    first[1:] = (np.diff(clusters) != 0) | (np.diff(classes) != 0)
    starts = np.flatnonzero(first)
    return clusters[starts], classes[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _chunk(ids: Numbers, start: int, size: int) -> Int64[np.ndarray, "b"]:
    part = ids[start : start + size]
    return (part.cpu().numpy() if isinstance(part, Tensor) else part).astype(np.int64)


def whole_labels(labels: Labels) -> tuple[npt.NDArray[Any] | Tensor, npt.NDArray[Any] | None]:
    """Labels as whole numbers, and where they were none of those, what each number stands for, ascending.

    Whole numbers stay as they are, whatever their type. Names and other numbers become their places in sorted order,
    but negative numbers −1, for none.

    Raises:
        UserError: they are not (n,), NaN, of types that have no order, or too large.
    """
    ids = labels.detach() if isinstance(labels, Tensor) else _as_array(labels)
    if ids.ndim != 1:
        raise UserError(f"labels have shape {tuple(ids.shape)}: give one for each row, (n,).")
    if not len(ids):
        return np.zeros(0, dtype=np.int64), None
    if isinstance(ids, Tensor):
        if not ids.is_floating_point() and not ids.is_complex() and ids.dtype != torch.bool:
            return ids, None
        ids = ids.cpu().numpy() if ids.dtype != torch.bfloat16 else ids.cpu().float().numpy()
    if ids.dtype == np.uint64 and int(ids.max()) > np.iinfo(np.int64).max:
        raise UserError(f"labels go up to {int(ids.max())}, which int64 does not hold: renumber them from 0.")
    return (ids, None) if ids.dtype.kind in "iu" else _codes(ids)


def _as_array(labels: npt.NDArray[Any] | Sequence[Any]) -> npt.NDArray[Any]:
    try:
        return np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise UserError(f"labels are not (n,) numbers or names ({error}): give one for each row.") from error


def _codes(ids: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    if ids.dtype.kind == "f":
        if not np.isfinite(ids).all():
            raise UserError("labels hold NaN or infinity: give -1 for rows without a label.")
        whole = ids.astype(np.int64)
        if (whole == ids).all():
            return whole, None
    elif ids.dtype.kind not in "bOSUTM":
        raise UserError(f"labels are {ids.dtype}: give numbers or names (n,), negative numbers for none.")
    try:
        names, codes = np.unique(ids, return_inverse=True)
    except TypeError as error:
        raise UserError("labels are of several types, which have no order: give numbers or names alone.") from error
    if ids.dtype.kind != "f":
        return codes, names
    n_none = int((names < 0).sum())
    return np.where(codes < n_none, -1, codes - n_none), names[n_none:]
