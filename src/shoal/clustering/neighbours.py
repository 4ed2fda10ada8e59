"""The nearest of some rows for each of others, exactly and a chunk at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.kmeans.restarts import check_counts
from shoal.clustering.rows import Metric, Rows, invalid_features_error
from shoal.errors import UserError

CHUNK = 2**22
"""Numbers that are held at a time, beside the rows and the answer."""


def nearest_neighbours(
    features: Float[Tensor, "n d"], k: int, metric: Metric, queries: Float[Tensor, "m d"] | None = None
) -> tuple[Int64[Tensor, "m k"], Float[Tensor, "m k"]]:
    """The k nearest rows, nearest first: their numbers and distances, ‖x − y‖ or 1 − cos, in float32.

    Exact: products find the nearest, differences give their distances. All pairs are looked at, never held at once,
    which suits some 100 000 rows.

    Args:
        features: the rows among which to look, on any device.
        k: how many to find, less than n without queries and at most n with.
        metric: by which rows are near.
        queries: the rows whose neighbours are asked for. Without them these are ``features``, and no row is a
            neighbour of its own.

    Raises:
        UserError: k out of range; queries of another width; NaN, infinity, zero rows under the cosine, squares that
            overflow in float32.
    """
    others = Rows(features.float(), metric)
    asked = others if queries is None else Rows(queries.to(features.device).float(), metric)
    most = len(others) - (queries is None)
    check_counts(k=k)
    if k > most:
        raise UserError(f"k={k} neighbours are more than there are: give at most {most}.")
    if asked.features.shape[1] != features.shape[1]:
        raise UserError(f"queries have {asked.features.shape[1]} columns: give {features.shape[1]}, as the features.")
    points = others[:]
    mean = points.mean(0)  # ‖x‖² − 2x·y + ‖y‖² cancels far from the origin
    points = points - mean
    lengths = points.square().sum(1)
    if not torch.isfinite(4 * lengths.max()):
        raise invalid_features_error(others.features)
    numbers = torch.empty(len(asked), k, dtype=torch.int64, device=features.device)
    squared = torch.empty(len(asked), k, device=features.device)
    step = max(1, CHUNK // max(len(points), k * points.shape[1]))
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        x = points[part] if queries is None else asked[part] - mean
        if not torch.isfinite(x.square().sum()):
            raise invalid_features_error(asked.features)
        own = torch.arange(len(points), device=x.device)[part] if queries is None else None
        numbers[part], squared[part] = _nearest(x, points, lengths, k, own)
    return numbers, others.distance(squared)


def _nearest(
    x: Float[Tensor, "b d"], points: Float[Tensor, "n d"], lengths: Float[Tensor, "n"], k: int, own: Tensor | None
) -> tuple[Int64[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Numbers and squared distances of the nearest points, without a row's ``own``."""
    values = torch.addmm(lengths, x, points.T, alpha=-2)
    if own is not None:
        values.scatter_(1, own[:, None], torch.inf)
    near = values.topk(k, largest=False).indices
    apart = (x[:, None] - points[near]).square().sum(2)
    order = apart.argsort(dim=1, stable=True)
    return near.gather(1, order), apart.gather(1, order)
