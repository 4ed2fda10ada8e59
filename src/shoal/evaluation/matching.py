"""The best one-to-one matching of clusters and classes, from the pairs that share rows alone.

No table of clusters × classes is made, so both may be as many as there are rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    maximum_bipartite_matching,
    min_weight_full_bipartite_matching,
)

from shoal.clustering.contingency import Contingency

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
