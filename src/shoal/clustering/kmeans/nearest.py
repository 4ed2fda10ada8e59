"""The nearest of some centres for each of some rows: the inner loop of k-means."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.rows import Rows, squared_distances

_MANTISSA = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}
"""The integer type of the same width, and the bits of the mantissa."""


def nearest_two(
    x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"], squared: Float[Tensor, "b"]
) -> tuple[Int64[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Nearest centre of each row, an upper bound on its distance, a lower one on that of the second nearest.

    Args:
        x: rows.
        centers: k of them; with one, the lower bound is infinite.
        squared: ‖x‖² of each row.
    """
    if len(centers) == 1:
        alone = to_points(x, centers.expand_as(x))
        return torch.zeros_like(alone, dtype=torch.int64), alone, torch.full_like(alone, torch.inf)
    values = squared_distances(x, centers)
    labels, first, resolution = _minimum(values)
    second = values.scatter_(1, labels[:, None], torch.inf).amin(1)
    # Products round, and far from the origin they cancel: close calls are computed in float64.
    slack = resolution * (first.abs() + second.abs())
    slack += _rounding(squared, second)
    upper = first.add_(squared).add_(slack).clamp_(min=0).sqrt_()
    lower = second.add_(squared).sub_(slack).clamp_(min=0).sqrt_()
    unclear = (lower <= upper).nonzero()[:, 0]
    if len(unclear):
        (labels[unclear], _), exact = nearest_exactly(x[unclear], centers)
        upper[unclear], lower[unclear] = exact.to(x.dtype)
    return labels, upper, lower


def nearest_exactly(
    x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"]
) -> tuple[Int64[Tensor, "2 b"], Float64[Tensor, "2 b"]]:
    """The two nearest of at least two centres, nearest first, and their distances, in float64.

    By products, and by differences where even in float64 products cannot tell.
    """
    x, centers = x.double(), centers.double()
    labels, least = _two_least(squared_distances(x, centers))
    unclear = (least[1] - least[0] <= _rounding(x.square().sum(1), least[1])).nonzero()[:, 0]
    for part in torch.split(unclear, max(1, 2**22 // len(centers))):
        labels[:, part] = _two_least(torch.cdist(x[part], centers, compute_mode="donot_use_mm_for_euclid_dist"))[0]
    return labels, torch.stack([to_points(x, centers[each]) for each in labels])


def two_labels(x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"]) -> Int64[Tensor, "2 b"]:
    """The two nearest centres of each row, nearest first; a single one is both."""
    if len(centers) == 1:
        return torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
    labels, (first, second) = _two_least(squared_distances(x, centers))
    unclear = (second - first <= _rounding(x.square().sum(1), second)).nonzero()[:, 0]
    if len(unclear):
        labels[:, unclear] = nearest_exactly(x[unclear], centers)[0]
    return labels


def _two_least(values: Float[Tensor, "b k"]) -> tuple[Int64[Tensor, "2 b"], Float[Tensor, "2 b"]]:
    """Columns and values of the two smallest of each row; among equals the first, which topk does not guarantee."""
    first = values.min(1)
    second = values.scatter(1, first.indices[:, None], torch.inf).min(1)
    return torch.stack([first.indices, second.indices]), torch.stack([first.values, second.values])


def _rounding(squared: Float[Tensor, "b"], second: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """How far off ‖c‖² − 2x·c may be for the two nearest centres, from ‖x‖² and the second's value."""
    return 16 * torch.finfo(second.dtype).eps * (squared + (second + squared).clamp_(min=0))


def nearest_labels(rows: Rows, centers: Float[Tensor, "k d"]) -> Int64[Tensor, "n"]:
    """Nearest centre of each row."""
    labels = torch.empty(len(rows), dtype=torch.int64, device=centers.device)
    for part, x in rows.chunks(len(centers)):
        labels[part] = nearest_two(x, centers, rows.squared_lengths[part, 0])[0]
    return labels


def rough_nearest(x: Float[Tensor, "b d"], centers: Float[Tensor, "k d"]) -> Int64[Tensor, "b"]:
    """Nearest centre by products in bfloat16, which may be wrong between two that are about equally near."""
    products = x.bfloat16() @ centers.bfloat16().T
    return _minimum(torch.add(centers.square().sum(1), products, alpha=-2))[0]


def to_points(x: Float[Tensor, "b d"], points: Float[Tensor, "b d"]) -> Float[Tensor, "b"]:
    """Distance of each row to its own point, by difference: ‖x‖² − 2x·y + ‖y‖² cancels near it."""
    distances: Tensor = torch.linalg.vector_norm(x - points, dim=1)
    return distances


def _minimum(values: Float[Tensor, "b k"]) -> tuple[Int64[Tensor, "b"], Float[Tensor, "b"], float]:
    """Column and value of each row's minimum, and the relative error of values, which are overwritten.

    The last bits of each value become the index of its column, so that one vectorised search for the minimum finds
    both. A search for the column takes several times as long.
    """
    integers, digits = _MANTISSA[values.dtype]
    bits = max(1, (values.shape[1] - 1).bit_length())
    if bits > digits // 2:
        least, labels = values.min(1)
        return labels, least, 0.0
    mask = (1 << bits) - 1
    columns = torch.arange(values.shape[1], dtype=integers, device=values.device)
    values.view(integers).bitwise_and_(~mask).bitwise_or_(columns)
    least = values.amin(1)
    return (least.view(integers) & mask).long(), least, 2.0 ** (bits - digits)
