"""What a run needs to know of other processes: no-ops when there is one.

Several processes come from ``torchrun`` and plain ``torch.distributed``. Random numbers are drawn for the global batch
from a generator that every rank holds in the same state; each rank then keeps its share. So N ranks draw what one
process would.
"""

from __future__ import annotations

import inspect
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined,unused-ignore]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from shoal.errors import UserError

_PATIENCE = timedelta(days=30)
"""How long ranks wait for each other where one of them works alone. One that has died is noticed at once."""

_MEETING = 300.0
"""Seconds in which processes must have found each other."""

_kept: list[object] = []
"""Stores that this process may serve: they end with it."""

_control: Any = None
"""For words between hosts, over gloo: no word waits for a GPU. None: the default group."""


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that ``torchrun`` has started, if it has: over gloo, and NCCL for what lies on GPUs.

    Raises:
        UserError: another process has ended, which this one learned when it wanted to hear from it.
    """
    global _control
    if not _by_torchrun():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=_store(rank), rank=rank, world_size=world_size)
    _control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(
                "another process of this run has ended, and what it said tells why; 'shoal train --resume' and the "
                "run's folder go on from the last save."
            ) from error
        raise
    dist.destroy_process_group()
    _control = None


def _by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and {"RANK", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


def _store(rank: int) -> Any:
    """Where the processes find each other: a store of this attempt alone, that rank 0 serves.

    The store that ``torchrun`` serves outlives its processes. After a restart it still holds the addresses of those
    that have died, and torch would call there.
    """
    lasting, host = next(rendezvous("env://"))[0], os.environ["MASTER_ADDR"]
    if rank == 0:
        served = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        lasting.set("port", str(served.port))
        _kept.append(lasting)
        return served
    until = time.monotonic() + _MEETING
    while not _serves(host, port := int(lasting.get("port"))):  # that of a process that has died
        if time.monotonic() > until:
            raise UserError(f"the first process does not answer at {host}:{port}: open this address to all machines.")
        time.sleep(0.2)
    return TCPStore(host, port, is_master=False)


def _serves(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` has started these processes again; all ranks ask at once."""
    # Only the machine whose process has failed counts the restart.
    return any_rank(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0)


def rank() -> int:
    """This process's number among its peers; 0 when alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks: rank 0, or the only one."""
    return rank() == 0


def share(n: int) -> slice:
    """This rank's rows of a global batch of ``n`` rows, which the world size must divide."""
    each = n // world_size()
    return slice(rank() * each, (rank() + 1) * each)


def part(n: int) -> slice:
    """This rank's of ``n`` rows, about as many as any other's."""
    return slice(rank() * n // world_size(), (rank() + 1) * n // world_size())


def largest(numbers: Sequence[int]) -> list[int]:
    """The largest that any rank gives, number by number; hosts talk, and GPUs go on working."""
    if world_size() == 1:
        return list(numbers)
    found = torch.tensor(numbers)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_control)
    return found.tolist()


def any_rank(answer: bool) -> bool:
    """Whether any rank says yes."""
    return bool(largest([answer])[0])


def text_of_first(text: str) -> str:
    """What rank 0 gives."""
    if world_size() == 1:
        return text
    letters = text.encode()
    found = torch.zeros(*largest([len(letters)]), dtype=torch.uint8)
    found[: len(letters)] = torch.tensor(list(letters), dtype=torch.uint8)
    dist.broadcast(found, 0, group=_control)
    return bytes(found.tolist()).rstrip(b"\0").decode()


@contextmanager
def one_by_node() -> Iterator[None]:
    """Let a process of each machine go first and the others after it, for they find then what it has kept on disk."""
    if world_size() == 1:
        yield
        return
    goes_first = os.environ.get("LOCAL_RANK", str(rank())) == "0"
    if not goes_first:
        dist.barrier(group=_control)
    yield
    if goes_first:
        dist.barrier(group=_control)


def averaging(network: nn.Module) -> nn.Module:
    """The network with gradients that are means over ranks (data parallel training); as it is in one process."""
    if world_size() == 1:
        return network
    # Buffers are the ranks' own: queues turn alike, and statistics of batch-norm are averaged when they are read.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # in PyTorch 2.15
    apart: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(network, gradient_as_bucket_view=True, **apart)


def averaged_at_last(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Let gradients add up on their rank until the last part of a batch; ``network`` is from ``averaging``."""
    if last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def average(values: Sequence[Tensor]) -> None:
    """Put the mean over ranks in the place of each tensor, in one exchange."""
    if world_size() == 1 or not values:
        return
    flat = torch.cat([value.flatten() for value in values])
    dist.all_reduce(flat)
    means = torch.split(flat / world_size(), [value.numel() for value in values])
    for value, mean in zip(values, means, strict=True):
        value.copy_(mean.view_as(value))


# Renamed in PyTorch 2.15, which warns of the old name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _Gather(torch.autograd.Function):
    """All-gather along the rows; backward adds up what the ranks' losses ask of these rows, which they ask alike.

    Adding up is what makes N ranks equal to one process: each rank computes the same loss on the global batch, the data
    parallel wrapper averages the gradients, and the sum here undoes that average. As all addends are the same, no word
    need be exchanged.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        out = rows.new_empty(world_size() * len(rows), *rows.shape[1:])
        _all_gather(out, rows.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return world_size() * grads[0][share(len(grads[0]))]


def gather(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "global_b ..."]:
    """The rows of all ranks, in rank order; the rows themselves in one process.

    Its gradient is right for losses that every rank computes alike from what all ranks know.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def gather_all(*rows: Shaped[Tensor, "b _"]) -> tuple[Shaped[Tensor, "global_b _"], ...]:
    """``gather`` of several matrices of one type in one exchange: a small one costs no more than its delay."""
    if world_size() == 1:
        return rows
    return torch.split(gather(torch.cat(rows, dim=1)), [part.shape[1] for part in rows], dim=1)


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


def of_each_rank(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "ranks ..."]:
    """A tensor of every rank, in one exchange, with gradient of losses that differ by rank as well."""
    mine = torch.arange(world_size(), device=values.device) == rank()
    return sum_over_ranks(values.where(mine.view(-1, *(1 for _ in values.shape)), 0))


def gather_uneven(rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "global_b ..."]:
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
