"""Split–merge: of two centres that share a group, one moves to a group without a centre of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.kmeans.partition import Partition
from shoal.clustering.rows import Rows, squared_distances

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
    tried = tried[inertias > 0]
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
