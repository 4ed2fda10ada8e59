"""Which cluster each row of features is in, how sure that is, and how central the row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from shoal.clustering.kmeans.nearest import to_points
from shoal.clustering.rows import Metric, Rows, invalid_features_error, squared_distances

CHUNK = 8192
"""Rows dealt with at once: of 1 280 features they take 42 MB."""


@runtime_checkable
class Probable(Protocol):
    """What is asked of a clusterer: the probability of each cluster, of rows it may never have seen."""

    def predict_proba(self, X: Tensor, /) -> Tensor:
        """(n, d) to (n, k)."""


@dataclass(frozen=True, eq=False)
class Assigned:
    """A row for each image.

    ``confidence`` is the probability of its cluster, in [0, 1]. ``distance`` is that to the cluster's centre, and
    ``margin`` how much larger the distance to the nearest other centre is. It is negative where another centre is
    nearer, as a mixture may have it, and infinite with a single cluster. ``places`` are x and y on the map, if it was
    drawn.
    """

    clusters: Int64[Tensor, "n"]
    confidence: Float32[Tensor, "n"]
    distance: Float32[Tensor, "n"]
    margin: Float32[Tensor, "n"]
    places: Float32[Tensor, "n 2"] | None


def assigned(
    features: Float[Tensor, "n d"],
    clusterer: Probable,
    centers: Float[Tensor, "k d"],
    metric: Metric,
    places: Float32[Tensor, "n 2"] | None = None,
    labels: Int64[Tensor, "n"] | None = None,
) -> Assigned:
    """Put rows into clusters, a chunk at a time, so that the features may be a memory map.

    Args:
        features: rows, also a memory map.
        clusterer: fitted.
        centers: of the clusters, in the space of the features.
        metric: of the distances: ‖x − c‖, or 1 − cos.
        places: x and y of each row on the map, if there is one.
        labels: the clusters where they are known, as those of a fit are; else the most probable.

    Raises:
        UserError: NaN, infinity, or a zero row under the cosine.
    """
    rows = Rows(features, metric, centers.float().mean(0))
    points = rows.prepare(centers).to(rows.dtype)
    found = Assigned(
        torch.empty(len(rows), dtype=torch.int64) if labels is None else labels,
        torch.empty(len(rows)),
        torch.empty(len(rows)),
        torch.empty(len(rows)),
        places,
    )
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        probabilities = torch.as_tensor(clusterer.predict_proba(features[part]))
        if labels is None:
            found.clusters[part] = probabilities.argmax(1)
        own = found.clusters[part]
        found.confidence[part] = probabilities.gather(1, own[:, None])[:, 0].float()
        x = rows[part]
        found.distance[part] = rows.distance(to_points(x, points[own]).square()).float()
        found.margin[part] = _to_others(rows, x, points, own) - found.distance[part]
    if not torch.isfinite(found.distance).all():
        raise invalid_features_error(features)
    return found


def _to_others(
    rows: Rows, x: Float[Tensor, "b d"], points: Float[Tensor, "k d"], own: Int64[Tensor, "b"]
) -> Float32[Tensor, "b"]:
    """Distance to the nearest centre but the own one."""
    if len(points) == 1:
        return torch.full((len(x),), torch.inf)
    other = squared_distances(x, points).scatter_(1, own[:, None], torch.inf).argmin(1)
    return rows.distance(to_points(x, points[other]).square()).float()
