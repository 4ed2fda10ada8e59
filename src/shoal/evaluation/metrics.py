"""How well clusters agree with true classes: one-to-one, as a majority, in pairs of rows, in information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    maximum_bipartite_matching,
    min_weight_full_bipartite_matching,
)
from scipy.special import xlogy

from shoal.clustering.contingency import Contingency, Labels
from shoal.evaluation.result import ClassScore

Index = Int64[np.ndarray, "_"]
Edges = tuple[Index, Index]


def matched_pairs(table: Contingency) -> Bool[np.ndarray, "m"]:
    """Which pairs of the table are in a one-to-one matching that holds as many rows as any (Kuhn 1955); exact.

    Pairs that are in some best matching for sure are taken first, which leaves little of good clusters. For the rest
    the cheaper of two methods is used: shortest augmenting paths on the sparse table (Jonker and Volgenant 1987), whose
    time grows with the square of the clusters, or matchings without weights, level by level, whose time grows with
    the largest count.
    """
    chosen = np.zeros(len(table.counts), dtype=bool)
    left = np.arange(len(chosen))
    while len(left):
        clusters, classes = table.clusters[left], table.classes[left]
        certain = _certain(clusters, classes, table.counts[left])
        chosen[left[certain]] = True
        open_ = ~(np.isin(clusters, clusters[certain]) | np.isin(classes, classes[certain]))
        few = len(certain) <= len(left) // 100
        left = left[open_]
        if few:
            break
    if len(left):
        ends = (np.unique(ids[left], return_inverse=True)[1] for ids in (table.clusters, table.classes))
        rows, columns = sorted(ends, key=lambda ids: int(ids.max()))
        chosen[left] = _matched(rows, columns, table.counts[left])
    return chosen


def matched_share(table: Contingency) -> float:
    """Share of the rows that are in the matched pairs; of one row or more."""
    return float(table.counts[matched_pairs(table)].sum() / table.counts.sum())


def _certain(rows: Index, columns: Index, counts: Index) -> Index:
    """Pairs with as many rows as the next best of their cluster and of their class together.

    Whatever the two are matched to instead, matching them to each other and the other two to nothing loses nothing.
    """
    certain = np.flatnonzero(counts >= _best_other(rows, counts) + _best_other(columns, counts))
    for ids in (rows, columns):  # of pairs as good as each other one is taken
        certain = certain[np.unique(ids[certain], return_index=True)[1]]
    return certain


def _best_other(ids: Index, counts: Index) -> Index:
    """For each pair, the most rows of another pair with the same id."""
    first, second = np.zeros((2, ids.max() + 1), dtype=np.int64)
    np.maximum.at(first, ids, counts)
    is_first = counts == first[ids]
    np.maximum.at(second, ids[~is_first], counts[~is_first])
    shared = np.bincount(ids[is_first], minlength=len(first)) > 1
    best: Index = np.where(is_first & ~shared[ids], second[ids], first[ids])
    return best


def _matched(rows: Index, columns: Index, counts: Index) -> Bool[np.ndarray, "_"]:
    """Which pairs are matched; numbers of rows and columns have no gaps, and there are no more rows than columns."""
    n_rows, n_columns = int(rows.max()) + 1, int(columns.max()) + 1
    of_paths, of_levels = n_rows * (n_rows + n_columns), 100 * len(counts) * int(counts.max())  # about nanoseconds
    by = _by_paths if of_paths < of_levels else _by_levels
    matched: Bool[np.ndarray, "_"] = by(rows, columns, counts, (n_rows, n_columns))[rows] == columns
    return matched


def _by_paths(rows: Index, columns: Index, counts: Index, shape: tuple[int, int]) -> Index:
    """Column of each row, -1 or more than there are for none.

    scipy's method wants a partner for every row: each has a column of its own that costs nothing.
    """
    n_rows, n_columns = shape
    each = np.arange(n_rows)
    # A weight of 0 would be no pair; one more for every pair changes nothing, since every row is in one.
    weights = np.concatenate([counts + 1, np.ones(n_rows, dtype=np.int64)]).astype(np.float64)
    ends = np.concatenate([rows, each]), np.concatenate([columns, n_columns + each])
    graph = csr_array((weights, ends), shape=(n_rows, n_columns + n_rows))
    found: Index = min_weight_full_bipartite_matching(graph, maximize=True)[1].astype(np.int64)
    return found


def _by_levels(rows: Index, columns: Index, counts: Index, shape: tuple[int, int]) -> Index:
    """Column of each row, -1 for none, by the decomposition of Kao, Lam, Sung and Ting (SIAM J. Comput. 31, 2001).

    Prices p, q ≥ 0 of rows and columns with p_i + q_j ≥ count_ij bound what any matching holds. They are found from the
    largest counts down: the pairs of the top level have a smallest vertex cover, whose prices rise until the next
    level is reached. A matching of pairs that pay exactly their count, with no priced row or column left over, is best.
    """
    prices = np.zeros(shape[0], dtype=np.int64), np.zeros(shape[1], dtype=np.int64)
    i, j, unpaid = rows, columns, counts
    while len(unpaid):
        top = int(unpaid.max())
        is_top = unpaid == top
        rise = top - int(unpaid[~is_top].max(initial=0))
        covers = _cover(i[is_top], j[is_top], shape)
        for price, cover in zip(prices, covers, strict=True):
            price[cover] += rise
        unpaid = unpaid - rise * (covers[0][i].astype(np.int64) + covers[1][j])
        i, j, unpaid = (values[unpaid > 0] for values in (i, j, unpaid))
    exact = counts == prices[0][rows] + prices[1][columns]
    return _covering(rows[exact], columns[exact], (prices[0] > 0, prices[1] > 0))


def _most(rows: Index, columns: Index, shape: tuple[int, int]) -> Index:
    """Column of each row in a matching with as many pairs as possible, -1 for none (Hopcroft and Karp 1973)."""
    graph = csr_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=shape)
    found: Index = maximum_bipartite_matching(graph, perm_type="column").astype(np.int64)
    return found


def _cover(rows: Index, columns: Index, shape: tuple[int, int]) -> tuple[Bool[np.ndarray, "_"], Bool[np.ndarray, "_"]]:
    """The fewest rows and columns that touch all pairs (Kőnig 1931)."""
    column_of = _most(rows, columns, shape)
    matched = np.flatnonzero(column_of >= 0)
    row_of = np.full(shape[1], -1)
    row_of[column_of[matched]] = matched
    # Alternating paths from all free rows at once: to any column, and on to the row that it is matched to.
    start = shape[0]
    free = np.unique(rows[column_of[rows] < 0])
    ends = np.concatenate([rows, np.full(len(free), start)]), np.concatenate([row_of[columns], free])
    to_row = ends[1] >= 0
    graph = csr_array(
        (np.ones(to_row.sum(), dtype=np.int8), (ends[0][to_row], ends[1][to_row])), shape=(start + 1, start + 1)
    )
    reached = np.zeros(start + 1, dtype=bool)
    reached[breadth_first_order(graph, start, return_predecessors=False)] = True
    in_cover = np.zeros(shape[1], dtype=bool)
    in_cover[columns[reached[rows]]] = True
    return (column_of >= 0) & ~reached[:-1], in_cover


def _covering(rows: Index, columns: Index, wanted: tuple[Bool[np.ndarray, "_"], Bool[np.ndarray, "_"]]) -> Index:
    """Column of each row in a matching that leaves out no wanted row or column, where there is one.

    Of a matching of the wanted rows and one of the wanted columns, each path or cycle that they form keeps the one
    or the other (Mendelsohn and Dulmage 1958).
    """
    n_rows, n_columns = shape = len(wanted[0]), len(wanted[1])
    each = [_most(rows[part], columns[part], shape) for part in (wanted[0][rows], wanted[1][columns])]
    pairs = [(np.flatnonzero(found >= 0), found[found >= 0]) for found in each]
    ends = np.concatenate([i for i, _ in pairs]), n_rows + np.concatenate([j for _, j in pairs])
    graph = csr_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(n_rows + n_columns,) * 2)
    component = connected_components(graph, directed=False)[1]
    is_wanted = np.concatenate(wanted)
    needed = np.bincount(component[is_wanted], minlength=component.max() + 1)
    i, j = pairs[0]
    has = np.concatenate([component[i[wanted[0][i]]], component[n_rows + j[wanted[1][j]]]])
    by_rows = np.bincount(has, minlength=len(needed)) == needed
    return np.where(by_rows[component[:n_rows]], *each)


TAIL = 32
"""Counts less likely than about exp(−32) = 1e-14 are left out of an expectation."""


def information_scores(table: Contingency) -> dict[str, float]:
    """NMI, AMI, homogeneity, completeness and V-measure, with scikit-learn's values at their limits.

    Args:
        table: of one row or more.
    """
    n = int(table.counts.sum())
    of_cluster, of_class = table.sizes()
    expected = of_cluster[table.clusters] / n * of_class[table.classes]
    mutual = max(0.0, float((table.counts / n * np.log(table.counts / expected)).sum()))
    h_cluster, h_class = _entropy(of_cluster), _entropy(of_class)
    # Where there is no entropy there is nothing to tell.
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
    """(MI − E) / (H̄ − E), where E is what clusters and classes of these sizes share by chance."""
    if len(of_cluster) == len(of_class) == 1:
        return 1.0
    if len(of_cluster) == 1 or len(of_class) == 1:
        return 0.0
    chance = expected_information(of_cluster, of_class)
    # Chance may do as well as the best, as where each row is a class of its own; rounding then must not decide.
    over_chance, at_best = (_away_from_zero(value - chance) for value in (mutual, mean_entropy))
    return over_chance / at_best


def _away_from_zero(value: float) -> float:
    least = float(np.finfo(np.float64).eps)
    return min(value, -least) if value < 0 else max(value, least)


def expected_information(of_cluster: Int64[np.ndarray, "k"], of_class: Int64[np.ndarray, "c"]) -> float:
    """Mutual information in nats that a random assignment to clusters and classes of these sizes has on average.

    E = Σ_ab E[m log(m/μ)] / n, where the rows m that a cluster of a rows shares with a class of b are hypergeometric
    with mean μ = ab/n (Vinh, Epps and Bailey, JMLR 11, 2010, equation 24a). Equal sizes are computed once, and only the
    counts about the mean that have a probability: time does not grow with n but with √n for each pair of sizes.

    Args:
        of_cluster: rows of each cluster.
        of_class: rows of each class, of the same total.
    """
    n = int(of_cluster.sum())
    sides = sorted((np.unique(sizes, return_counts=True) for sizes in (of_cluster, of_class)), key=lambda x: len(x[0]))
    (few, few_times), (many, many_times) = sides
    total = 0.0
    for a, times in zip(few.tolist(), few_times.tolist(), strict=True):
        width = 2 * _reach(a, many, n) + 1
        # Sizes are ascending, and so is the width.
        for part in _parts(width):
            total += times * float((many_times[part] * _shared(a, many[part], n, int(width[part][-1] // 2))).sum())
    return total / n


def _parts(width: Int64[np.ndarray, "s"]) -> list[slice]:
    """Runs of sizes that make no more than about a million numbers together, or are one."""
    parts, start = [], 0
    while start < len(width):
        fits = np.flatnonzero(width[start:] * np.arange(1, len(width) - start + 1) <= 2**20)
        stop = start + max(1, len(fits))
        parts.append(slice(start, stop))
        start = stop
    return parts


def _reach(a: int, b: Int64[np.ndarray, "s"], n: int) -> Int64[np.ndarray, "s"]:
    """How far from its mean a count is found with a probability worth the sum (Bernstein's inequality)."""
    variance = a / n * (1 - a / n) * b * (n - b) / max(n - 1, 1)
    reach: Int64[np.ndarray, "s"] = np.ceil(TAIL / 3 + np.sqrt(TAIL**2 / 9 + 2 * TAIL * variance)).astype(np.int64)
    return reach + 1


def _shared(a: int, b: Int64[np.ndarray, "s"], n: int, reach: int) -> Float64[np.ndarray, "s"]:
    """E[m log(m/μ)] of the hypergeometric m for each b, from probabilities relative to the mode's."""
    b = b[:, None].astype(np.float64)
    outside = n - a - b  # rows of neither
    # Rounding must not leave the range.
    mode = np.floor((a + 1) * (b + 1) / (n + 2)).clip(np.maximum(-outside, 0), np.minimum(a, b))
    steps = np.arange(min(reach, a) + 1)
    up, down = mode + steps, mode - steps
    # p(m + 1) / p(m) and p(m − 1) / p(m): at the ends of the range these are 0, and stay so beyond.
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


def class_scores(labels: Labels, pred: Labels, n_clusters: int, classes: Sequence[str]) -> list[ClassScore]:
    """A row for each class that has a clustered image, under the matching of ``acc``.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k.
        classes: names by label; labels beyond them go by their number.
    """
    table, matches = matched_confusion(labels, pred, n_clusters)
    cluster_of = dict(matches)
    in_cluster, in_class = table.sizes()
    sizes = dict(zip(table.cluster_ids.tolist(), in_cluster.tolist(), strict=True))
    shared = _rows_in_match(table, cluster_of)
    rows = []
    for label, images in zip(table.class_ids.tolist(), in_class.tolist(), strict=True):
        cluster = cluster_of.get(label)
        hits, size = shared.get(label, 0), sizes.get(cluster, 0)
        rows.append(
            ClassScore(
                name=_as_utf8(classes[label]) if label < len(classes) else str(label),
                images=images,
                cluster=cluster,
                recall=hits / images,
                precision=hits / size if size else None,
            )
        )
    return rows


def matched_class(labels: Labels, pred: Labels, n_clusters: int) -> Int64[np.ndarray, "k"]:
    """Class that ``acc`` matches each cluster to, -1 for none; arguments as for ``class_scores``."""
    _, matches = matched_confusion(labels, pred, n_clusters)
    matched = np.full(n_clusters, -1, dtype=np.int64)
    for label, cluster in matches:
        matched[cluster] = label
    return matched


def _rows_in_match(table: Contingency, cluster_of: Mapping[int, int]) -> dict[int, int]:
    """Rows of a class in the cluster that it is matched to, where there are any."""
    pairs = zip(
        table.class_ids[table.classes].tolist(),
        table.cluster_ids[table.clusters].tolist(),
        table.counts.tolist(),
        strict=True,
    )
    return {label: count for label, cluster, count in pairs if cluster_of.get(label) == cluster}


def _as_utf8(name: str) -> str:
    # A folder's name need not be UTF-8, but JSON is.
    return name.encode("utf-8", "backslashreplace").decode()
