"""The nearest of some centres for each of some rows: the inner loop of k-means."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from shoal.clustering.rows import Rows, squared_distances

_MANTISSA = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}
"""The integers of the same width, and how many bits of the number are digits."""


def nearest_two(
    x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"], squared: Float[Tensor, "b"]
) -> tuple[Int64[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Nearest centre of each row, its distance, and a lower bound on the distance of the second nearest.

    Args:
        x: rows.
        centers: k of them; with one, the bound is infinite.
        squared: ‖x‖² of each row.
    """
    if len(centers) == 1:
        alone = to_points(x, centers.expand_as(x))
        return torch.zeros_like(alone, dtype=torch.int64), alone, torch.full_like(alone, torch.inf)
    values = squared_distances(x, centers)
    labels, first = _packed_minimum(values)
    second = values.scatter_(1, labels[:, None], torch.inf).amin(1)
    unclear = _resolution(values, len(centers)) * (first.abs() + second.abs())
    close = (second - first <= unclear).nonzero()[:, 0]
    if len(close):
        labels[close] = squared_distances(x[close], centers).argmin(1)
    # Rounding in products and packing: the bound must hold all the same.
    slack = unclear + 16 * torch.finfo(x.dtype).eps * (squared + (second + squared).clamp_(min=0))
    first = first.add_(squared).clamp_(min=0).sqrt_()
    return labels, first, second.sub_(slack).add_(squared).clamp_(min=0).sqrt_()


def nearest_labels(rows: Rows, centers: Float[Tensor, "k d"]) -> Int64[Tensor, "n"]:
    """Nearest centre of each of all rows."""
    labels = torch.empty(len(rows), dtype=torch.int64, device=centers.device)
    for part, x in rows.chunks(len(centers)):
        labels[part] = nearest_two(x, centers, rows.squared_lengths[part, 0])[0]
    return labels


def rough_nearest(x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"]) -> Int64[Tensor, "b"]:
    """Nearest centre by products in bfloat16: of two that are about equally near, perhaps the other one."""
    products = x.bfloat16() @ centers.bfloat16().T
    return _packed_minimum(torch.add(centers.square().sum(1), products, alpha=-2))[0]


def to_points(x: Float[Tensor, "b d"], points: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """Distance of each row to its own point, by difference: ‖x‖² − 2x·y + ‖y‖² cancels near it."""
    distances: Tensor = torch.linalg.vector_norm(x - points, dim=1)
    return distances


def _packed_minimum(values: Float[Tensor, "b k"]) -> tuple[Int64[Tensor, "b"], Float[Tensor, "b"]]:
    """Column and value of each row's minimum, up to ``_resolution``; columns are written into ``values``.

    The last digits of each value are overwritten with the number of its column, so that one search for the minimum,
    which runs many numbers at a time, finds both. Looking for the column takes several times as long.
    """
    k = values.shape[1]
    integers, _ = _MANTISSA[values.dtype]
    mask = (1 << _bits(k)) - 1
    columns = torch.arange(k, dtype=integers, device=values.device)
    values.view(integers).bitwise_and_(~mask).bitwise_or_(columns)
    least = values.amin(1)
    return (least.view(integers) & mask).long(), least


def _resolution(values: Shaped[Tensor, "b k"], k: int) -> float:
    """Relative error of a value whose last digits are those of a column's number."""
    return 2.0 ** (_bits(k) - _MANTISSA[values.dtype][1])


def _bits(k: int) -> int:
    return max(1, (k - 1).bit_length())
