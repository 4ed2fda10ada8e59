"""How the processes of a job find each other, while signals are heeded and nobody is waited for without end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined,unused-ignore]

from shoal.errors import UserError
from shoal.launched import Launched
from shoal.noise import muffled
from shoal.progress import counted

_RENDEZVOUS_SECONDS = 300.0
"""Time in which processes that ``torchrun`` has started must find each other."""

_UNASKED_SECONDS = 45.0
"""The same where only variables say that there are others: a job of SLURM may have set them for another program."""

_CONNECTED_WITHIN = timedelta(seconds=30)


def deadline(own: Launched) -> float:
    """When processes must have found each other, by the monotonic clock."""
    return time.monotonic() + (_RENDEZVOUS_SECONDS if own.by_torchrun else _UNASKED_SECONDS)


def find_each_other(own: Launched, late: float) -> tuple[TCPStore, str, TCPStore]:
    """Find the others.

    The store of ``torchrun`` outlives its processes. After a restart it still holds the addresses of the dead ones, and
    torch would connect to those, so there is another one for each attempt.

    Returns:
        The store of ``torchrun``, or of the first process where that has none; how the names of what is left there in
        this attempt begin; and the store of this attempt, served by the first process.

    Raises:
        UserError: the others do not come.
    """
    host = own.host
    if own.rank == 0 and not own.is_served:
        try:
            with muffled():  # torch prints a stack of calls for each try
                outer = TCPStore(host, own.port, is_master=True, wait_for_workers=False, timeout=_CONNECTED_WITHIN)
        except RuntimeError as error:
            where = f"MASTER_ADDR={host} and MASTER_PORT={own.port}"
            raise UserError(
                f"this process cannot answer where {where} say (WORLD_SIZE={own.world_size}): to work in one process, "
                "unset WORLD_SIZE; to work in several, start them with torchrun."
            ) from error
    else:
        wait_until(lambda: _serves(host, own.port), late, lambda: missing(own, 1))
        outer = TCPStore(host, own.port, is_master=False, timeout=_CONNECTED_WITHIN)
    if own.rank == 0:
        served = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        outer.set("port", str(served.port))
        return outer, f"{served.port}/", served

    def is_there() -> bool:  # and not the port of a process that has died
        return bool(outer.check(["port"])) and _serves(host, int(outer.get("port")))

    wait_until(
        is_there, late, lambda: f"the first process does not answer at {host}: open all its ports to all machines."
    )
    port = int(outer.get("port"))
    return outer, f"{port}/", TCPStore(host, port, is_master=False)


def wait_until(ready: Callable[[], bool], late: float, why: Callable[[], str]) -> None:
    """Wait for other processes to come, heeding signals.

    Raises:
        UserError: they have not by the time ``late``.
    """
    while not ready():
        if time.monotonic() > late:
            raise UserError(why())
        time.sleep(0.05)


def _serves(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def missing(own: Launched, n: int) -> str:
    """What to say where not all processes have come."""
    came = f"of {own.world_size} processes that were started together, {n} {'has' if n == 1 else 'have'} come"
    if own.by_torchrun:
        return f"{came} within {_RENDEZVOUS_SECONDS / 60:.0f} minutes: see what the others say."
    return (
        f"{came} within {_UNASKED_SECONDS:.0f} seconds, as RANK={own.rank} and WORLD_SIZE={own.world_size} have it: to "
        "work in one process, unset WORLD_SIZE; to work in several, start them with torchrun."
    )


def check_gpus(own: Launched, n_local: int) -> None:
    """Raise a UserError where this machine has fewer GPUs than the job has processes on it."""
    n_gpus = torch.cuda.device_count()
    if own.local_rank >= n_gpus:
        raise UserError(
            f"{n_local} processes were started on {socket.gethostname()}, which has "
            f"{counted(n_gpus, 'GPU')}, and each needs its own: give --nproc-per-node {n_gpus}."
        )
