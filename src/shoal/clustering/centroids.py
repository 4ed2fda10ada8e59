"""Centres of clusters, given which rows are in them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.kmeans.partition import ClusterSums
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, directions, invalid_features_error
from shoal.errors import UserError


def group_sums(
    rows: Rows, groups: Int64[Tensor, "n"], n_groups: int
) -> tuple[Float64[Tensor, "g d"], Int64[Tensor, "g"]]:
    """Sum and number of the rows of each group, on the host; rows of group −1 are left out."""
    sums = torch.zeros(n_groups + 1, rows.features.shape[1], dtype=torch.float64)
    counts = torch.zeros(n_groups + 1, dtype=torch.int64)
    for part, x in rows.chunks(1):
        place = groups[part].cpu() % (n_groups + 1)  # −1 becomes the last
        sums.index_add_(0, place, x.double().cpu())
        counts += torch.bincount(place, minlength=n_groups + 1)
    return sums[:-1], counts[:-1]


def cluster_centers(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    k: int,
    metric: Metric,
    shards: Shards = LOCAL,
) -> Float[Tensor, "k d"]:
    """Mean of each cluster's rows, for the cosine the direction of the mean of their directions.

    Rows are read in chunks and summed in float64, so they may be a memory map of any size. An empty cluster gets the
    centre of all rows that have a cluster, so that distances to it are finite.

    Args:
        features: on any device.
        labels: cluster of each row, −1 for none.
        k: number of clusters.
        metric: of the centres.
        shards: whether each rank holds a share of the rows.

    Raises:
        UserError: NaN, infinity, a zero row under the cosine; labels that are not (n,) or not below k; no row at all
            with a cluster.
    """
    rows = Rows(features, metric)
    labels = labels.to(features.device)
    if (
        labels.shape != (len(rows),)
        or not k > 0
        or (len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < k)
    ):
        raise UserError(f"labels must be ({len(rows)},) numbers from -1 to {k - 1}: give one for each row of features.")
    if not shards.sum((labels >= 0).sum()):
        raise UserError("no row has a cluster, so there are no centres: give labels from 0 on.")
    totals = ClusterSums(k, features.shape[1], features.device)
    for part, x in rows.chunks(1):
        clustered = (labels[part] >= 0).nonzero()[:, 0]
        own = labels[part][clustered]
        totals.move(x[clustered], torch.full_like(own, -1), own, None)
    totals.sums, totals.counts = shards.sum(totals.sums), shards.sum(totals.counts)
    if not torch.isfinite(totals.sums).all():
        raise invalid_features_error(features, shards)
    empty = totals.counts == 0
    sums = torch.where(empty[:, None], totals.sums.sum(0), totals.sums)
    means = sums / totals.counts.where(~empty, totals.counts.sum())[:, None]
    if metric == "cosine":
        means = directions(means, shards.gather(rows[:1])[:1].expand(k, -1))  # where directions cancel, any
    return means.to(rows.dtype)
