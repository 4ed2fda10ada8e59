"""What a run needs to know of other processes: no-ops when there is one.

Several processes come from ``torchrun`` and plain ``torch.distributed``. Random numbers are drawn for the world batch
from a generator that every rank holds in the same state; each rank then keeps its share. So N ranks draw what one
process would.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


def rank() -> int:
    """This process's number among its peers; 0 when alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(n: int) -> slice:
    """This rank's rows of a world batch of ``n`` rows, which the world size must divide."""
    each = n // world_size()
    return slice(rank() * each, (rank() + 1) * each)


class _Gather(torch.autograd.Function):
    """All-gather along the rows; backward sums what every rank asks of these rows.

    Summing is what makes N ranks equal to one process: each rank computes the same loss on the world batch, the data
    parallel wrapper averages the gradients, and the sum here undoes that average.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.n = len(rows)
        out = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(out, rows.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[share(len(grad))]


def gather(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "world_b ..."]:
    """The rows of all ranks, in rank order, with gradient; the rows themselves in one process."""
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Sum(torch.autograd.Function):
    """All-reduce by sum; what each rank's loss asks of the sum is asked of every rank's addend."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        out = values.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        dist.all_reduce(grad)
        return grad


def sum_over_ranks(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The sum of a tensor over all ranks, with gradient; the tensor itself in one process."""
    if world_size() == 1:
        return values
    total: Tensor = _Sum.apply(values)
    return total


def gather_uneven(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "world_b ..."]:
    """The rows of all ranks, in rank order, where ranks may hold different numbers of them; without gradient."""
    if world_size() == 1:
        return rows
    counts = rows.new_zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    dist.all_reduce(counts)
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = gather(padded).view(world_size(), len(padded), *rows.shape[1:])
    return torch.cat([part[:n] for part, n in zip(parts, counts.tolist(), strict=True)])


def from_first_rank(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """What rank 0 holds; the values themselves in one process."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.broadcast(values, 0)
    return values
