"""The machines and cores of a job, which its processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shoal.distributed import world_size
from shoal.launched import launched


def n_nodes() -> int:
    """Number of machines, as far as ``torchrun`` tells."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1")) if world_size() > 1 else 1


def local_world_size() -> int:
    """Number of processes of the job on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if world_size() > 1 or launched() else 1


def own_cores() -> int:
    """Cores for this process: those of the machine that it may use, shared by the job's processes there."""
    return max(1, _cores() // local_world_size())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let torch use this process's share of the cores, where ``torchrun`` has set it to one thread unasked."""
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(own_cores())


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use the cores of the processes that wait as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before * local_world_size(), max(_cores(), before)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
