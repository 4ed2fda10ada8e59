"""Communication between the processes of a job; no-ops in a single process.

Processes are started by ``torchrun``. Random numbers are drawn for the global batch from a generator that has the same
state on every rank, and each rank keeps its share. So N ranks draw what one process would.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(days=30)
"""How long ranks wait while one of them works alone. A rank that dies is noticed at once."""

_AT_ONCE = 2**24
"""Bytes of a message of many rows."""

_control: Any = None
"""A gloo group for messages between hosts, which do not wait for GPUs. None: the default group."""


def connect_hosts() -> None:
    """Open the group for messages between hosts; all ranks must call this once they have joined."""
    global _control
    _control = dist.new_group(backend="gloo", timeout=_PATIENCE)


def disconnect_hosts() -> None:
    """Forget that group."""
    global _control
    _control = None


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` has restarted these processes; all ranks must call this."""
    # Only the machine whose process failed counts the restart.
    return any_rank(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0)


def rank() -> int:
    """Number of this process; 0 if it is the only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is rank 0, the process that writes files and messages."""
    return rank() == 0


def only_first(context: AbstractContextManager[None]) -> AbstractContextManager[None]:
    """A context that rank 0 enters for all."""
    return context if is_first() else nullcontext()


def part(n: int) -> slice:
    """This rank's share of ``n`` rows, of about the same size on all ranks."""
    return _part_of(rank(), n)


def _part_of(one: int, n: int) -> slice:
    return slice(one * n // world_size(), (one + 1) * n // world_size())


def host_from_first(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The values of rank 0, on the host, which must have the same shape and type everywhere; they are overwritten."""
    if world_size() > 1 and values.numel():
        dist.broadcast(values, 0, group=_control)
    return values


def largest(numbers: Sequence[int]) -> list[int]:
    """Elementwise maximum over ranks; hosts communicate, and GPUs keep working."""
    if world_size() == 1:
        return list(numbers)
    found = torch.tensor(numbers)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_control)
    return found.tolist()


def any_rank(answer: bool) -> bool:
    """Whether the answer is true on any rank."""
    return bool(largest([answer])[0])


def averaging(network: nn.Module) -> nn.Module:
    """The network with gradients averaged over ranks (data-parallel training); unchanged in one process."""
    if world_size() == 1:
        return network
    # Buffers are not synchronised: queues are equal on all ranks, batch-norm statistics are averaged when needed.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # in PyTorch 2.15
    no_sync: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **no_sync)


def averaged_at_last(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Accumulate gradients locally until the last part of a batch; ``network`` is from ``averaging``."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def average(values: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over ranks, in one message."""
    if world_size() == 1 or not values:
        return
    flat = torch.cat([value.flatten() for value in values])
    dist.all_reduce(flat)
    means = torch.split(flat / world_size(), [value.numel() for value in values])
    for value, mean in zip(values, means, strict=True):
        value.copy_(mean.view_as(value))


# Renamed in PyTorch 2.15, which warns about the old name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _Gather(torch.autograd.Function):
    """All-gather along the rows; backward sums the gradients of these rows over ranks, which are all the same.

    The sum makes N ranks equal to one process: each rank computes the same loss on the global batch, the data-parallel
    wrapper averages the gradients, and the sum undoes that average. As all addends are equal, no message is needed.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        out = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
        _all_gather(out, rows.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return world_size() * grads[0][part(len(grads[0]))]


def gather(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "global_b ..."]:
    """The rows of all ranks, in rank order; the rows themselves in one process.

    Its gradient is correct for losses that every rank computes alike from gathered rows.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def gather_all(*rows: Shaped[Tensor, "b _"]) -> tuple[Shaped[Tensor, "global_b _"], ...]:
    """``gather`` of several matrices of one type in one message: a small one costs nothing but latency."""
    if world_size() == 1:
        return rows
    return torch.split(gather(torch.cat(rows, dim=1)), [part.shape[1] for part in rows], dim=1)


class _Sum(torch.autograd.Function):
    """All-reduce by sum; the gradient of each addend is the sum of the ranks' gradients."""

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


def of_each_rank(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "ranks ..."]:
    """The tensors of all ranks, in one message; the gradient is also correct for losses that differ by rank."""
    mine = torch.arange(world_size(), device=values.device) == rank()
    return sum_over_ranks(values.where(mine.view(-1, *(1 for _ in values.shape)), 0))


def gather_uneven(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "global_b ..."]:
    """The rows of all ranks, in rank order, of which each may hold a different number; without gradient."""
    if world_size() == 1:
        return rows
    counts = rows.new_zeros(world_size(), dtype=torch.int64)
    counts[rank()] = len(rows)
    dist.all_reduce(counts)
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = gather(padded).view(world_size(), len(padded), *rows.shape[1:])
    return torch.cat([part[:n] for part, n in zip(parts, counts.tolist(), strict=True)])


def rows_on_first(own: Shaped[Tensor, "b ..."], whole: Shaped[Tensor, "n ..."]) -> None:
    """Copy each rank's ``part`` of n rows, on the host, into ``whole`` of rank 0, as many at a time as fit into 16 MB.

    Args:
        own: those of this rank.
        whole: all of them; ranks other than 0 give any, which stays as it is.
    """
    if not is_first():
        for piece in _pieces(own):
            dist.send(piece.contiguous(), 0, group=_control)
        return
    whole[_part_of(0, len(whole))] = own
    for one in range(1, world_size()):
        for piece in _pieces(whole[_part_of(one, len(whole))]):
            dist.recv(piece, one, group=_control)


def _pieces(rows: Shaped[Tensor, "b ..."]) -> Sequence[Tensor]:
    if not rows.numel():
        return []
    return torch.split(rows, max(1, _AT_ONCE // rows[:1].nbytes))


def from_first_rank(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The values of rank 0; unchanged in one process."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.broadcast(values, 0)
    return values
