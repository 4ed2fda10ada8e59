"""Lloyd's iteration: assign each row to its nearest centre, move each centre to the mean of its rows, repeat.

Empty clusters are handled here, by ``relocate_empty_clusters``; what the iteration cannot repair, by ``split_merge``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.kmeans.nearest import nearest_labels, to_points
from shoal.clustering.kmeans.partition import Partition
from shoal.clustering.rows import LOCAL, Rows, Shards, angle_of_rounding, directions, squared_distances
from shoal.device import multiplies_bfloat16

ROWS = 512
"""Rows of a cluster on which a split is tried."""
POWER_STEPS = 6
UPDATES = 4
GAIN = 1.2
"""A split must save this multiple of what a merger costs: splits of pure noise look slightly better than they are."""


def split_merge(partition: Partition, centers: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Centres after every split and merger that lowers the inertia; the same centres if none does.

    After Capó, Pérez and Lozano (2022): merging clusters a and b costs n_a n_b / (n_a + n_b) · ‖c_a − c_b‖² of inertia;
    what a split saves is estimated on some rows of the cluster. The eighth of the clusters with the largest inertia is
    tried.

    Args:
        partition: which rows are in which cluster.
        centers: approximate means of the clusters.
    """
    k = len(centers)
    if k < 3:
        return centers
    counts = partition.totals()[1]
    inertias, tried = partition.inertias(centers).topk(max(1, k // 8))
    tried = tried[(inertias > 0) & (counts[tried] > EMPTY * counts.sum())]  # an emptied one may keep some rounding
    if not len(tried):
        return centers
    saved, halves = zip(*(_split(partition, centers[c], int(c)) for c in tried), strict=True)
    saving = torch.stack(saved) * counts[tried]
    cost, partner = _mergers(centers, counts)
    new = centers.clone()
    busy: set[int] = set()
    mergers = iter(cost.argsort().tolist())
    for i in saving.argsort(descending=True).tolist():
        c = int(tried[i])
        if c in busy:
            continue
        pair = next(((a, b) for a in mergers if not {a, b := int(partner[a]), c} & busy and c not in (a, b)), None)
        if pair is None or saving[i] <= GAIN * cost[pair[0]]:
            break
        a, b = pair
        new[a] = ((counts[a] * centers[a].double() + counts[b] * centers[b].double()) / (counts[a] + counts[b])).to(new)
        new[c], new[b] = halves[i]
        busy |= {a, b, c}
    return partition.shards.agree(new)


def _mergers(
    centers: Float[Tensor, "k d"], counts: Float64[Tensor, "k"]
) -> tuple[Float64[Tensor, "k"], Int64[Tensor, "k"]]:
    """Cost of the cheapest merger of each cluster, and the cluster to merge it with."""
    cost, partner = torch.empty_like(counts), torch.empty_like(counts, dtype=torch.int64)
    for part, x in Rows(centers, "euclidean").chunks(8 * len(centers)):
        squared = squared_distances(x, centers).add_(x.square().sum(1, keepdim=True)).clamp_(min=0).double()
        joint = counts[part, None] * counts / (counts[part, None] + counts).clamp(min=1e-300) * squared
        joint.diagonal(part.start).fill_(torch.inf)
        cost[part], partner[part] = joint.min(1)
    return cost, partner


def _split(
    partition: Partition, center: Float[Tensor, "d"], cluster: int
) -> tuple[Float64[Tensor, ""], Float[Tensor, "2 d"]]:
    """Mean saving per row if the cluster had two centres, and these centres: its halves along the longest axis."""
    away = partition.some_rows(cluster, ROWS) - center
    axis = away[away.square().sum(1).argmax()]
    for _ in range(POWER_STEPS):
        axis = away.T @ (away @ axis)
        axis = axis / torch.linalg.vector_norm(axis).clamp(min=1e-30)
    side, halves = away @ axis > 0, torch.zeros_like(away[:1]).repeat(2, 1)
    for _ in range(UPDATES):
        if not side.any() or side.all():
            break
        halves = torch.stack([away[~side].mean(0), away[side].mean(0)])
        side = squared_distances(away, halves).diff(dim=1)[:, 0] < 0
    return -squared_distances(away, halves).amin(1).double().mean(), halves + center


SETTLED = 0.003
"""Share of the rows that change cluster in an update above which bfloat16 is precise enough."""

LARGE = 2**18
"""Number of distances in an update from which bfloat16 pays."""

SPLIT_MERGE_SHARE = 0.15
"""Split–merge begins once no larger share of the rows changes cluster: by then groups can be told apart."""

MAX_SPLIT_MERGES = 5

STEP = 1.5
"""Length of the early updates, as a multiple of the way to the means (over-relaxed EM, Salakhutdinov and Roweis 2003).
It saves a third of the updates."""

EMPTY = 1e-13
"""Largest share of the total weight of an empty cluster: weights that come and go leave a trace of rounding."""


Tell = Callable[[str], None]
"""Prints a line about a run, in scikit-learn's words."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Result of a run, in the coordinates of its ``Rows``."""

    centers: Float[Tensor, "k d"]
    labels: Int64[Tensor, "n"]
    """The nearest of the centres."""
    squared: Float[Tensor, "n"]
    """Squared distance to it."""
    inertia: float
    """Their sum over the rows of all ranks."""
    n_iter: int
    """Updates of the centres."""


def lloyd(
    rows: Rows,
    centers: Float[Tensor, "k d"],
    *,
    max_iter: int,
    tol: float,
    noise: float = 0.0,
    shards: Shards = LOCAL,
    tell: Tell | None = None,
) -> Solution:
    """Iterate until no row changes cluster or the centres hardly move.

    Lloyd 1982; for the cosine, spherical k-means (Dhillon and Modha 2001). Empty clusters are relocated.

    Args:
        rows: the data, or this rank's share of it.
        centers: initial ones.
        max_iter: the most updates of the centres.
        tol: bound on the sum of the squared moves of the centres.
        noise: extra tolerance for sampling error, as a share of the inertia.
        shards: whether each rank holds a share.
        tell: called with the inertia after each update.
    """
    if tell:
        tell("Initialization complete")
    partition = Partition(rows, len(centers), shards)
    return _converge(partition, centers, 0, max_iter, tol, noise, tell)


def fast_lloyd(
    rows: Rows,
    centers: Float[Tensor, "k d"],
    *,
    max_iter: int,
    tol: float,
    rough: bool,
    shards: Shards = LOCAL,
    tell: Tell | None = None,
) -> Solution:
    """``lloyd`` from seeds, which may end in any optimum that is no worse.

    Until few rows change cluster, centres overshoot their means, split–merge repairs them, and with ``rough`` distances
    are computed in bfloat16 where the hardware does. Exact updates follow.
    """
    partition = Partition(rows, len(centers), shards)
    n_rows, attempts, n_iter = shards.total(len(rows)), MAX_SPLIT_MERGES, 0
    large = n_rows * len(centers) > LARGE  # for less there is little to gain, and all hardware finds the same clusters
    rough = rough and large and rows.dtype == torch.float32 and multiplies_bfloat16(rows.features.device)
    for n_iter in range(1, max_iter):
        n_moved = partition.assign(centers, rough=rough)
        centers = _update(partition, centers, STEP if n_iter > 1 else 1.0)
        if attempts and n_moved <= SPLIT_MERGE_SHARE * n_rows:
            better = split_merge(partition, centers)
            pays = not torch.equal(better, centers)
            attempts = attempts - 1 if pays else 0
            if pays:
                partition.move_bounds(better, centers)
                centers = better
                continue
        if n_moved <= SETTLED * n_rows:
            break
    return _converge(partition, centers, n_iter, max_iter, tol, 0.0, tell)


def _converge(
    partition: Partition,
    centers: Float[Tensor, "k d"],
    n_iter: int,
    max_iter: int,
    tol: float,
    noise: float,
    tell: Tell | None,
) -> Solution:
    """Exact updates after the first ``n_iter``."""
    while n_iter < max_iter:
        n_iter += 1
        n_moved = partition.assign(centers)
        if tell:
            tell(f"Iteration {n_iter}, inertia {float(partition.inertias(centers).sum()):.6g}.")
        before, centers = centers, _update(partition, centers)
        bound = tol + noise * float(partition.inertias(centers).sum()) if noise else tol
        shift = float((centers - before).square().sum())
        if n_moved == 0 or shift <= bound:
            if tell:
                how = "strict convergence" if n_moved == 0 else f"center shift {shift:g} within tolerance {bound:g}"
                tell(f"Converged at iteration {n_iter}: {how}.")
            break
    partition.assign(centers)
    squared = partition.upper  # the room of bounds that nothing needs any more
    return _solution(partition.rows, centers, partition.labels, n_iter, partition.shards, squared)


def _update(partition: Partition, centers: Float[Tensor, "k d"], step: float = 1.0) -> Float[Tensor, "k d"]:
    """Move centres ``step`` times the way to the means of their rows, for the cosine at unit length."""
    sums, counts = partition.totals()
    empty = counts <= EMPTY * counts.sum()
    relocated = centers[:0]
    if empty.any():
        relocated, sums, counts = relocate_empty_clusters(partition, centers, int(empty.sum()))
    means = torch.where(empty[:, None], centers.double(), sums / counts.where(~empty, 1.0)[:, None])
    cosine = partition.rows.metric == "cosine"
    if cosine:
        means = directions(means, centers)
    if step != 1:
        means = centers + step * (means - centers)
        if cosine:
            means = directions(means, centers)
    new = means.to(centers.dtype)
    if len(relocated):
        new[empty] = relocated
    partition.move_bounds(new, centers)
    return new


def relocate_empty_clusters(
    partition: Partition, centers: Float[Tensor, "k d"], n: int
) -> tuple[Float[Tensor, "n d"], Float64[Tensor, "k d"], Float64[Tensor, "k"]]:
    """Rows farthest from their own centres, farthest first, for the centres of empty clusters to move to.

    So no cluster is lost unless there are fewer distinct rows than clusters. The squared distances count by the rows'
    weights, as in the inertia: a row of weight 0 never takes a centre. Nor does a row that is its own centre but for
    rounding: such moves would never end.

    Args:
        partition: the clusters of the rows about ``centers``.
        centers: before the update.
        n: how many clusters are empty.

    Returns:
        The rows, and sums and weights of all clusters without them.
    """
    rows, shards = partition.rows, partition.shards
    distances = centers.new_empty(len(rows))
    rounding = angle_of_rounding(rows) if rows.metric == "cosine" else 4 * torch.finfo(rows.dtype).eps
    rounding += shards.total(len(rows)) * torch.finfo(torch.float64).eps  # that of the sum which a mean is made of
    for part, x in rows.chunks(1):
        away = to_points(x, centers[partition.labels[part]])
        distances[part] = away.where(away > rounding * torch.linalg.vector_norm(x, dim=1), -torch.inf)
    weights = rows.each_weight
    if rows.weights is not None:
        distances = (distances * weights.sqrt()).where(weights > 0, -torch.inf)
    far = distances.topk(min(n, len(distances))).indices
    found = (distances[far], rows[far], partition.labels[far], weights[far].double())
    distances, candidates, owners, weights = map(shards.gather, found)
    distances, order = distances.topk(min(n, len(distances)))
    order = order[torch.isfinite(distances)]
    if not len(order):
        return candidates[:0], *partition.totals()
    sums, counts = partition.totals()
    rest = sums.index_add(0, owners[order], candidates[order].double() * weights[order, None], alpha=-1)
    left = counts.index_add(0, owners[order], weights[order], alpha=-1)
    none = left <= EMPTY * counts.sum()  # a cluster of which all rows are taken stays where it is, with them
    taken = candidates[order[torch.arange(n, device=order.device) % len(order)]]
    return taken, torch.where(none[:, None], sums, rest), torch.where(none, counts, left)


def solution_at(rows: Rows, centers: Float[Tensor, "k d"], n_iter: int, shards: Shards) -> Solution:
    """The clusters of rows about final centres, which took ``n_iter`` updates."""
    return _solution(rows, centers, nearest_labels(rows, centers), n_iter, shards, centers.new_empty(len(rows)))


def _solution(
    rows: Rows,
    centers: Float[Tensor, "k d"],
    labels: Int64[Tensor, "n"],
    n_iter: int,
    shards: Shards,
    squared: Float[Tensor, "n"],
) -> Solution:
    """The solution with these labels; the squared distances are written to ``squared``."""
    for part, x in rows.chunks(1):
        squared[part] = to_points(x, centers[labels[part]]).square()
    inertia = shards.sum(rows.weighted(squared).sum(dtype=torch.float64))
    return Solution(centers, labels, squared, float(inertia), n_iter)
