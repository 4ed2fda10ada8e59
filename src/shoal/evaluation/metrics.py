"""How well clusters agree with true classes: one-to-one, as a majority, in pairs of rows, in information."""

from __future__ import annotations

import numpy as np

from shoal.clustering.contingency import Contingency, Labels
from shoal.evaluation.information import information_scores
from shoal.evaluation.matching import matched_pairs, matched_share


def purity(labels: Labels, pred: Labels) -> float:
    """Share of rows in the class that is most frequent in their cluster.

    That is the accuracy under the best many-to-one matching as well: each cluster votes its majority class, and
    several may vote the same. It says something where there are more clusters than classes, and can only rise with the
    number of clusters. 0 when no row has both a cluster and a class; arguments as for ``clustering_scores``.
    """
    return _purity(Contingency.of(pred, labels))


def clustering_scores(labels: Labels, pred: Labels) -> dict[str, float]:
    """Agreement of clusters with classes; names of clusters do not matter, and there may be any number of either.

    - ``acc``: share of rows in the class that their cluster is matched to, under the one-to-one matching of clusters
      and classes for which it is largest; clusters beyond the number of classes match none.
    - ``nmi``: mutual information over the arithmetic mean of the two entropies.
    - ``ari``: adjusted Rand index (Hubert and Arabie 1985).
    - ``fmi``: Fowlkes–Mallows index (1983).
    - ``ami``: mutual information beyond chance, over the most it can be beyond chance (Vinh, Epps and Bailey 2010).
    - ``homogeneity``, ``completeness``: mutual information over the entropy of the classes, of the clusters.
    - ``v_measure``: harmonic mean of these two (Rosenberg and Hirschberg 2007), which is ``nmi``.
    - ``purity``: as the function of this name.

    Memory beside the arguments is that of the pairs of cluster and class that occur. ``homogeneity``, ``completeness``
    and ``purity`` tell clusters from classes; the others are symmetric.

    Args:
        labels: true class of each row (n,), -1 for none.
        pred: cluster of each row (n,), -1 for none.

    Returns:
        The scores over the rows that have both; empty when no row has.

    Raises:
        UserError: there are not as many of both.
    """
    table = Contingency.of(pred, labels)
    if not len(table.counts):
        return {}
    information = information_scores(table)
    return {
        "acc": matched_share(table),
        "nmi": information.pop("nmi"),
        "ari": table.adjusted_rand(),
        "fmi": table.fowlkes_mallows(),
        **information,
        "purity": _purity(table),
    }


def matched_confusion(labels: Labels, pred: Labels, n_clusters: int) -> tuple[Contingency, list[tuple[int, int]]]:
    """Rows of each class in each cluster, and the pairs of class and cluster that ``acc`` matches.

    Classes that share no row with a cluster that is left are matched as well, in the order of their numbers, as long
    as there are clusters.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k; some of them may have no row.

    Returns:
        The counts, and the pairs by their own numbers, ascending.
    """
    table = Contingency.of(pred, labels)
    matched = matched_pairs(table)
    classes, clusters = table.class_ids[table.classes[matched]], table.cluster_ids[table.clusters[matched]]
    free_classes = np.setdiff1d(table.class_ids, classes)
    free_clusters = np.setdiff1d(np.arange(n_clusters), clusters)
    pairs = [*zip(classes.tolist(), clusters.tolist(), strict=True)]
    return table, sorted([*pairs, *zip(free_classes.tolist(), free_clusters.tolist(), strict=False)])


def _purity(table: Contingency) -> float:
    majority = np.zeros(len(table.cluster_ids), dtype=np.int64)
    np.maximum.at(majority, table.clusters, table.counts)
    return float(majority.sum() / max(table.counts.sum(), 1))
