"""Which cluster each row of features is in, how sure that is, and how central the row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from shoal.clustering.kmeans.nearest import to_points
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, invalid_features_error, squared_distances

CHUNK = 8192
"""Rows dealt with at once: of 1 280 features they take 42 MB."""


@runtime_checkable
class Probable(Protocol):
    """What is asked of a clusterer: the probability of each cluster, also of rows it has never seen."""

    def predict_proba(self, X: Tensor, /) -> Tensor:
        """(n, d) to (n, k)."""


@dataclass(frozen=True, eq=False)
class Assignments:
    """A row per image.

    ``confidence`` is the probability of its cluster, in [0, 1]. ``distance`` is that to the cluster's centre, and
    ``margin`` how much farther the nearest other centre is: negative where another centre is nearer, as may happen in
    a mixture, and infinite with a single cluster. ``positions`` are x and y on the map, if there is one.
    """

    labels: Int64[Tensor, "n"]
    confidence: Float32[Tensor, "n"]
    distance: Float32[Tensor, "n"]
    margin: Float32[Tensor, "n"]
    positions: Float32[Tensor, "n 2"] | None = None

    def __getitem__(self, index: Int64[Tensor, "m"]) -> Assignments:
        """Those of some rows."""
        positions = None if self.positions is None else self.positions[index]
        return Assignments(
            self.labels[index], self.confidence[index], self.distance[index], self.margin[index], positions
        )


def assign_rows(
    features: Float[Tensor, "n d"],
    clusterer: Probable,
    centers: Float[Tensor, "k d"],
    metric: Metric,
    *,
    labels: Int64[Tensor, "n"] | None = None,
    positions: Float32[Tensor, "n 2"] | None = None,
    shards: Shards = LOCAL,
) -> Assignments:
    """Put rows into clusters, a chunk at a time, so that the features may be a memory map.

    Args:
        features: rows, also a memory map.
        clusterer: fitted.
        centers: of the clusters, in the space of the features.
        metric: of the distances: ‖x − c‖, or 1 − cos.
        labels: the clusters where they are known, as those of a fit are; else the most probable, and none where all
            probabilities are 0. Rows in no cluster (−1) have confidence 0, and distances of NaN.
        positions: x and y of each row on the map, if there is one.
        shards: whether all ranks see all rows and put a share of them into clusters each.

    Raises:
        UserError: NaN, infinity, or a zero row under the cosine.
    """
    if shards.cut:
        part = shards.part(len(features))
        mine = assign_rows(features[part], clusterer, centers, metric, labels=None if labels is None else labels[part])
        labels, confidence = shards.gather(mine.labels), shards.gather(mine.confidence)
        return Assignments(labels, confidence, shards.gather(mine.distance), shards.gather(mine.margin), positions)
    rows = Rows(features, metric, centers.float().mean(0))
    points = rows.prepare(centers).to(rows.dtype)
    n = len(rows)
    own = torch.empty(n, dtype=torch.int64) if labels is None else labels
    found = Assignments(own, torch.empty(n), torch.empty(n), torch.empty(n), positions)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        probabilities = torch.as_tensor(clusterer.predict_proba(features[part]))
        if labels is None:
            most, own[part] = probabilities.max(1)
            own[part][most <= 0] = -1  # it belongs nowhere
        known = own[part].clamp(min=0)
        found.confidence[part] = probabilities.gather(1, known[:, None])[:, 0].float().clamp(max=1)  # sums are rounded
        x = rows[part]
        found.distance[part] = rows.distance(to_points(x, points[known]).square()).float()
        found.margin[part] = _to_others(rows, x, points, known) - found.distance[part]
    if not torch.isfinite(found.distance).all():
        raise invalid_features_error(features)
    nowhere = own < 0
    found.confidence[nowhere] = 0
    found.distance[nowhere] = found.margin[nowhere] = torch.nan
    return found


def _to_others(
    rows: Rows, x: Float[Tensor, "b d"], points: Float[Tensor, "k d"], own: Int64[Tensor, "b"]
) -> Float32[Tensor, "b"]:
    """Distance to the nearest centre but the own one."""
    if len(points) == 1:
        return torch.full((len(x),), torch.inf)
    other = squared_distances(x, points).scatter_(1, own[:, None], torch.inf).argmin(1)
    return rows.distance(to_points(x, points[other]).square()).float()
