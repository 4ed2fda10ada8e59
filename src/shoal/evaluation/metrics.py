"""How well clusters agree with true classes: accuracy under the best matching, NMI, ARI, Fowlkes–Mallows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Labels = npt.NDArray[Any] | Tensor
"""Integers (n,); -1 means none."""


@dataclass(frozen=True, eq=False)
class Contingency:
    """How many rows each pair of cluster and class shares, for the pairs that share any; numbered afresh from 0."""

    clusters: Int64[np.ndarray, "m"]
    classes: Int64[np.ndarray, "m"]
    counts: Int64[np.ndarray, "m"]

    @classmethod
    def of(cls, pred: Labels, labels: Labels) -> Contingency:
        """Count the rows that have both a cluster and a class."""
        clusters, classes = (np.unique(ids, return_inverse=True)[1] for ids in _known(pred, labels))
        n_classes = classes.max(initial=0) + 1
        pairs, counts = np.unique(clusters * n_classes + classes, return_counts=True)
        return cls(pairs // n_classes, pairs % n_classes, counts)

    def sizes(self) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "c"]]:
        """Rows in each cluster and in each class."""
        return np.bincount(self.clusters, self.counts), np.bincount(self.classes, self.counts)

    def matched_share(self) -> float:
        """Share of the rows in the pairs of the best one-to-one matching (Kuhn 1955)."""
        table = np.zeros((self.clusters.max() + 1, self.classes.max() + 1), dtype=np.int64)
        table[self.clusters, self.classes] = self.counts
        return float(table[linear_sum_assignment(table, maximize=True)].sum() / self.counts.sum())


def purity(labels: Labels, pred: Labels) -> float:
    """Share of rows in the class that is most frequent in their cluster.

    That is the accuracy under the best many-to-one matching as well: each cluster votes its majority class, and
    several may vote the same. It says something where there are more clusters than classes, and can only rise with the
    number of clusters. 0 when no row has both a cluster and a class; arguments as for ``clustering_scores``.
    """
    table = Contingency.of(pred, labels)
    majority = np.zeros(table.clusters.max(initial=-1) + 1, dtype=np.int64)
    np.maximum.at(majority, table.clusters, table.counts)
    return float(majority.sum() / max(table.counts.sum(), 1))


def clustering_scores(labels: Labels, pred: Labels) -> dict[str, float]:
    """Agreement of clusters with classes; names of clusters do not matter, and there may be any number of either.

    - ``acc``: share of rows in the class that their cluster is matched to, under the one-to-one matching of clusters
      and classes for which it is largest; clusters beyond the number of classes match none.
    - ``nmi``: mutual information over the arithmetic mean of the two entropies.
    - ``ari``: adjusted Rand index (Hubert and Arabie 1985).
    - ``fmi``: Fowlkes–Mallows index (1983).

    Args:
        labels: true class of each row (n,), -1 for none.
        pred: cluster of each row (n,), -1 for none.

    Returns:
        The four scores over the rows that have both; empty when no row has.
    """
    table = Contingency.of(pred, labels)
    if not len(table.counts):
        return {}
    return {"acc": table.matched_share(), "nmi": _nmi(table), **_pair_scores(table)}


def matched_confusion(
    labels: Labels, pred: Labels, n_clusters: int
) -> tuple[Int64[np.ndarray, "c k"], list[tuple[int, int]]]:
    """Rows of each class in each cluster, and the pairs of class and cluster that ``acc`` matches.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k, the number of columns.
    """
    clusters, classes = _known(pred, labels)
    table = np.zeros((classes.max(initial=-1) + 1, n_clusters), dtype=np.int64)
    np.add.at(table, (classes, clusters), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return table, list(zip(rows.tolist(), columns.tolist(), strict=True))


def _known(pred: Labels, labels: Labels) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """Cluster and class of the rows that have both."""
    clusters, classes = (
        (ids.cpu().numpy() if isinstance(ids, Tensor) else ids).astype(np.int64) for ids in (pred, labels)
    )
    known = (clusters >= 0) & (classes >= 0)
    return clusters[known], classes[known]


def _nmi(table: Contingency) -> float:
    n = table.counts.sum()
    of_cluster, of_class = table.sizes()
    expected = of_cluster[table.clusters] / n * of_class[table.classes]
    mutual = float((table.counts / n * np.log(table.counts / expected)).sum())
    mean_entropy = (_entropy(of_cluster) + _entropy(of_class)) / 2
    # Without entropy there is one cluster and one class: they agree.
    return max(0.0, mutual / mean_entropy) if mean_entropy > 0 else 1.0


def _entropy(sizes: Float64[np.ndarray, "k"]) -> float:
    p = sizes / sizes.sum()
    return float(-(p * np.log(p)).sum())


def _pair_scores(table: Contingency) -> dict[str, float]:
    """ARI and FMI, from how many pairs of rows are together in a cluster, in a class, and in both."""
    n = float(table.counts.sum())
    in_both, in_cluster, in_class = (float((m * (m - 1.0)).sum()) for m in (table.counts, *table.sizes()))
    by_chance = in_cluster * in_class / max(n * (n - 1), 1.0)
    at_best = (in_cluster + in_class) / 2
    # Chance does as well as the best when all rows are together in both, or apart in both: they agree.
    ari = (in_both - by_chance) / (at_best - by_chance) if at_best > by_chance else 1.0
    fmi = in_both / float(np.sqrt(in_cluster * in_class)) if in_both else 0.0
    return {"ari": ari, "fmi": fmi}
