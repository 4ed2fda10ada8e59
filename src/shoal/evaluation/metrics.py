"""How well clusters agree with true classes: one-to-one matching, purity, pairs of rows, information."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.special import xlogy

from shoal.clustering.contingency import Contingency, Labels
from shoal.evaluation.result import ClassScore

DENSE = 2**26
"""Clusters × classes up to which the matching uses a dense table (512 MB); larger tables are matched as sparse ones."""

TAIL = 32
"""Counts less likely than about exp(−32) = 1e-14 are left out of an expectation."""


def clustering_scores(labels: Labels, pred: Labels) -> dict[str, float]:
    """Agreement of clusters with classes, for any number of either; renumbering clusters changes nothing.

    - ``acc``: share of rows in the class that their cluster is matched to, under the one-to-one matching of clusters
      and classes that maximises it; clusters in excess of the classes are matched to none.
    - ``nmi``: mutual information over the arithmetic mean of the two entropies.
    - ``ari``: adjusted Rand index (Hubert and Arabie 1985).
    - ``fmi``: Fowlkes–Mallows index (1983).
    - ``ami``: mutual information adjusted for chance (Vinh, Epps and Bailey 2010).
    - ``homogeneity``, ``completeness``: mutual information over the entropy of the classes, of the clusters.
    - ``v_measure``: their harmonic mean (Rosenberg and Hirschberg 2007), equal to ``nmi``.
    - ``purity``: see ``purity``.

    ``homogeneity``, ``completeness`` and ``purity`` are not symmetric in clusters and classes; the others are.

    Args:
        labels: true class of each row (n,), -1 for none.
        pred: cluster of each row (n,), -1 for none.

    Returns:
        The scores over the rows that have both a class and a cluster; empty if there are none.

    Raises:
        UserError: the lengths differ, or the labels are not numbers or names (n,).
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


def purity(labels: Labels, pred: Labels) -> float:
    """Share of rows in the most frequent class of their cluster: accuracy under the best many-to-one matching.

    It is informative with more clusters than classes, and tends to rise with the number of clusters. 0 if no row has
    both a cluster and a class; arguments as for ``clustering_scores``.
    """
    return _purity(Contingency.of(pred, labels))


def _purity(table: Contingency) -> float:
    majority = np.zeros(len(table.cluster_ids), dtype=np.int64)
    np.maximum.at(majority, table.clusters, table.counts)
    return float(majority.sum() / max(table.counts.sum(), 1))


def matched_share(table: Contingency) -> float:
    """Share of the rows in matched pairs of cluster and class; the table must have at least one row."""
    return float(table.counts[matched_pairs(table)].sum() / table.counts.sum())


def matched_pairs(table: Contingency) -> Bool[np.ndarray, "m"]:
    """Mark the pairs of the one-to-one matching of clusters and classes that holds the most rows (Kuhn 1955)."""
    k, c = len(table.cluster_ids), len(table.class_ids)
    class_of = np.full(k, -1)
    if k * c <= DENSE:
        counts = np.zeros((k, c))
        counts[table.clusters, table.classes] = table.counts
        rows, columns = linear_sum_assignment(counts, maximize=True)
        class_of[rows] = columns
    else:
        # scipy's sparse matching is full: each cluster may instead take a column of its own. Weights must not be 0.
        weights = np.concatenate([table.counts + 1, np.ones(k)]).astype(np.float64)
        rows, columns = np.append(table.clusters, np.arange(k)), np.append(table.classes, np.arange(c, c + k))
        graph = csr_array((weights, (rows, columns)), shape=(k, c + k))
        class_of = min_weight_full_bipartite_matching(graph, maximize=True)[1]
    matched: Bool[np.ndarray, "m"] = class_of[table.clusters] == table.classes
    return matched


def matched_confusion(labels: Labels, pred: Labels, n_clusters: int) -> tuple[Contingency, list[tuple[int, int]]]:
    """Rows of each class in each cluster, and the pairs of class and cluster that ``acc`` matches.

    Classes that share no row with any remaining cluster are paired with the remaining clusters in numerical order.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k, empty clusters included.

    Returns:
        The counts, and the pairs (class, cluster) in ascending order.
    """
    table = Contingency.of(pred, labels)
    matched = matched_pairs(table)
    classes, clusters = table.class_ids[table.classes[matched]], table.cluster_ids[table.clusters[matched]]
    free_classes = np.setdiff1d(table.class_ids, classes)
    free_clusters = np.setdiff1d(np.arange(n_clusters), clusters)
    pairs = [*zip(classes.tolist(), clusters.tolist(), strict=True)]
    return table, sorted([*pairs, *zip(free_classes.tolist(), free_clusters.tolist(), strict=False)])


def matched_class(labels: Labels, pred: Labels, n_clusters: int) -> Int64[np.ndarray, "k"]:
    """Class that ``acc`` matches each cluster to, -1 for none; arguments as for ``matched_confusion``."""
    _, matches = matched_confusion(labels, pred, n_clusters)
    matched = np.full(n_clusters, -1, dtype=np.int64)
    for label, cluster in matches:
        matched[cluster] = label
    return matched


def class_scores(labels: Labels, pred: Labels, n_clusters: int, classes: Sequence[str]) -> list[ClassScore]:
    """Recall and precision of each class that has a clustered image, under the matching of ``acc``.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k.
        classes: names by label; a label without a name is named by its number.
    """
    table, matches = matched_confusion(labels, pred, n_clusters)
    cluster_of = dict(matches)
    in_cluster, in_class = table.sizes()
    sizes = dict(zip(table.cluster_ids.tolist(), in_cluster.tolist(), strict=True))
    ends = table.class_ids[table.classes].tolist(), table.cluster_ids[table.clusters].tolist()
    shared = {
        label: count
        for label, cluster, count in zip(*ends, table.counts.tolist(), strict=True)
        if cluster_of.get(label) == cluster
    }
    rows = []
    for label, images in zip(table.class_ids.tolist(), in_class.tolist(), strict=True):
        cluster = cluster_of.get(label)
        hits, size = shared.get(label, 0), sizes.get(cluster, 0)
        # A folder's name need not be UTF-8, but JSON is.
        name = classes[label].encode("utf-8", "backslashreplace").decode() if label < len(classes) else str(label)
        rows.append(ClassScore(name, images, cluster, recall=hits / images, precision=hits / size if size else None))
    return rows


def information_scores(table: Contingency) -> dict[str, float]:
    """NMI, AMI, homogeneity, completeness and V-measure, with scikit-learn's values at their limits.

    The table must have at least one row.
    """
    n = int(table.counts.sum())
    of_cluster, of_class = table.sizes()
    expected = of_cluster[table.clusters] / n * of_class[table.classes]
    mutual = max(0.0, float((table.counts / n * np.log(table.counts / expected)).sum()))
    h_cluster, h_class = _entropy(of_cluster), _entropy(of_class)
    homogeneity = mutual / h_class if h_class else 1.0
    completeness = mutual / h_cluster if h_cluster else 1.0
    both = homogeneity + completeness
    mean_entropy = (h_cluster + h_class) / 2
    return {
        "nmi": mutual / mean_entropy if mean_entropy else 1.0,
        "ami": _adjusted(mutual, mean_entropy, of_cluster, of_class),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v_measure": 2 * homogeneity * completeness / both if both else 0.0,
    }


def _entropy(sizes: Int64[np.ndarray, "k"]) -> float:
    p = sizes / sizes.sum()
    return abs(float((p * np.log(p)).sum()))


def _adjusted(
    mutual: float, mean_entropy: float, of_cluster: Int64[np.ndarray, "k"], of_class: Int64[np.ndarray, "c"]
) -> float:
    """(MI − E) / (H̄ − E), where E is the expected mutual information of clusters and classes of these sizes."""
    if len(of_cluster) == len(of_class) == 1:
        return 1.0
    if len(of_cluster) == 1 or len(of_class) == 1:
        return 0.0
    chance = expected_information(of_cluster, of_class)
    # E may reach H̄, for example if each row is a class of its own; rounding must not decide the result then.
    numerator, denominator = (_away_from_zero(value - chance) for value in (mutual, mean_entropy))
    return numerator / denominator


def _away_from_zero(value: float) -> float:
    least = float(np.finfo(np.float64).eps)
    return min(value, -least) if value < 0 else max(value, least)


def expected_information(of_cluster: Int64[np.ndarray, "k"], of_class: Int64[np.ndarray, "c"]) -> float:
    """Expected mutual information, in nats, of random clusters and classes of these sizes.

    E = Σ_ab E[m log(m/μ)] / n, where the rows m that a cluster of a rows shares with a class of b are hypergeometric
    with mean μ = ab/n (Vinh, Epps and Bailey, JMLR 11, 2010, equation 24a). Equal sizes are computed once, and counts
    of negligible probability are left out: a pair of sizes takes O(√n) time instead of O(n).

    Args:
        of_cluster: rows of each cluster.
        of_class: rows of each class; the totals are equal.
    """
    n = int(of_cluster.sum())
    sides = sorted((np.unique(sizes, return_counts=True) for sizes in (of_cluster, of_class)), key=lambda x: len(x[0]))
    (few, few_times), (many, many_times) = sides
    total = 0.0
    for a, times in zip(few.tolist(), few_times.tolist(), strict=True):
        width = 2 * _reach(a, many, n) + 1
        for part in _parts(width):
            total += times * float((many_times[part] * _shared(a, many[part], n, int(width[part][-1] // 2))).sum())
    return total / n


def _parts(width: Int64[np.ndarray, "s"]) -> list[slice]:
    """Split ascending widths into runs that take up to about a million numbers together."""
    parts, start = [], 0
    while start < len(width):
        fits = np.flatnonzero(width[start:] * np.arange(1, len(width) - start + 1) <= 2**20)
        stop = start + max(1, len(fits))
        parts.append(slice(start, stop))
        start = stop
    return parts


def _reach(a: int, b: Int64[np.ndarray, "s"], n: int) -> Int64[np.ndarray, "s"]:
    """Distance from the mean beyond which counts are negligible (Bernstein's inequality)."""
    variance = a / n * (1 - a / n) * b * (n - b) / max(n - 1, 1)
    reach: Int64[np.ndarray, "s"] = np.ceil(TAIL / 3 + np.sqrt(TAIL**2 / 9 + 2 * TAIL * variance)).astype(np.int64)
    return reach + 1


def _shared(a: int, b: Int64[np.ndarray, "s"], n: int, reach: int) -> Float64[np.ndarray, "s"]:
    """E[m log(m/μ)] of the hypergeometric m for each b, from probabilities relative to the mode's."""
    b = b[:, None].astype(np.float64)
    outside = n - a - b  # rows in neither
    # Clip against rounding errors.
    mode = np.floor((a + 1) * (b + 1) / (n + 2)).clip(np.maximum(-outside, 0), np.minimum(a, b))
    steps = np.arange(min(reach, a) + 1)
    up, down = mode + steps, mode - steps
    # p(m + 1) / p(m) and p(m − 1) / p(m): 0 at the ends of the range, so that products beyond stay 0.
    rises = (a - up) * (b - up) / ((up + 1) * (outside + up + 1))
    falls = down * (outside + down) / ((a - down + 1) * (b - down + 1))
    weight = total = np.zeros(len(b))
    for m, ratio in ((up, rises), (down, falls)):
        p = np.cumprod(ratio, axis=1)
        m = np.maximum(m[:, 1:], 0)
        weight = weight + p[:, :-1].sum(1)
        total = total + (p[:, :-1] * xlogy(m, m * (n / (a * b)))).sum(1)
    at_mode = xlogy(mode, mode * (n / (a * b)))[:, 0]
    expectation: Float64[np.ndarray, "s"] = (total + at_mode) / (weight + 1)
    return expectation
