"""The compute device: its precision, its threads, and the state of torch's default random number generators."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from threadpoolctl import ThreadpoolController
from torch import Tensor

from shoal import distributed
from shoal.progress import counted

M_MMAP_THRESHOLD = -3
"""The number in glibc's malloc.h of the size from which a block is a map of its own."""

LARGE_BLOCK = 2**20
"""Bytes."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32 ones; other hardware emulates them, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def compute_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


Precision = Literal["auto", "float32", "bfloat16"]


def in_words(device: torch.device, precision: Precision) -> str:
    """Device and precision, for display."""
    arithmetic = resolve_precision(device, precision)
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {arithmetic}"
    n = torch.get_num_threads()
    unused = "; the GPU of this Mac is not used" if torch.backends.mps.is_available() else ""
    return f"CPU, {counted(n, 'thread')}, {arithmetic}{unused}"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Run networks in bfloat16 if asked, or for "auto" if the hardware computes in it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16")


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """The precision that "auto" stands for on a device."""
    if precision != "auto":
        return precision
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def host_memory() -> float:
    """Bytes of memory that this process may use; infinity where the system does not say."""
    try:
        own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container; "max" where there is none
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(own, int(text)) if text.isdigit() else own


def process_memory() -> int:
    """Bytes of memory that this process has now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def return_large_blocks() -> None:
    """Let the C library give large blocks back to the system as soon as they are freed, for the rest of the process.

    glibc would keep freed ones of up to 32 MB to use them again, and the maps of a network leave gaps in what it keeps.
    Other systems are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


States = dict[str, UInt8[Tensor, "_"]]
"""By device type."""


def preserve_rng(device: torch.device) -> AbstractContextManager[None]:
    """Restore torch's default generators after the block: the host's, and that of this GPU."""
    # By default torch forks those of all GPUs, and warns about it.
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def first_rng(device: torch.device, seed: int) -> States:
    """This rank's states at the start of a run; on rank 0 the current ones, after drawing the weights."""
    if distributed.is_first():
        return _states(device)
    with preserve_rng(device):
        # Dropout must differ between ranks; seeds far apart keep rank 1 from being rank 0 of another run.
        torch.manual_seed((seed + distributed.rank() * 0x9E3779B97F4A7C15) % 2**63)
        return _states(device)


def _states(device: torch.device) -> States:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_default_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set torch's default generators to saved states."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def gathered_rng(device: torch.device) -> dict[str, Tensor]:
    """The states of all ranks, for saving: a row per rank, or a vector in one process."""
    found = {f"rng.{name}": state for name, state in _states(device).items()}
    if distributed.world_size() == 1:
        return found
    return {name: distributed.gather(state[None].to(device)).cpu() for name, state in found.items()}


def own_rng(saved: Mapping[str, Tensor], device: torch.device, seed: int) -> States:
    """This rank's row of the states from ``gathered_rng``, or the initial ones if there were fewer ranks."""
    rank, own = distributed.rank(), first_rng(device, seed)
    for name in own.keys() & saved.keys():
        rows = saved[name].view(-1, saved[name].shape[-1])
        if rank < len(rows):
            own[name] = rows[rank].clone()  # PyTorch ignores the storage offset
    return own


@contextmanager
def hold_threads(most: int | None = None) -> Iterator[None]:
    """Keep BLAS, OpenMP and numba to the number of torch's threads, and put all numbers back.

    torch's number is what ``OMP_NUM_THREADS`` or ``torch.set_num_threads`` said; libraries that were set to fewer keep
    their own. The first parallel function of numba sets the OpenMP that torch shares to all cores, whatever was said,
    and BLAS never hears of ``torch.set_num_threads``. Libraries must be imported before, within a ``hold_threads`` of
    their own if they use threads as they are imported.

    Args:
        most: threads to use at most, fewer than torch has.
    """
    ours = torch.get_num_threads()
    limit = ours if most is None else min(most, ours)
    numba = sys.modules.get("numba")
    of_numba = numba.get_num_threads() if numba else 0  # starts numba's threads, which changes the others' numbers
    torch.set_num_threads(ours)
    pools = ThreadpoolController().lib_controllers
    before = [pool.num_threads for pool in pools]
    try:
        if numba:
            numba.set_num_threads(min(of_numba, limit))
        for pool, threads in zip(pools, before, strict=True):
            pool.set_num_threads(min(threads, limit))
        torch.set_num_threads(limit)
        yield
    finally:
        if numba:
            numba.set_num_threads(of_numba)
        for pool, threads in zip(pools, before, strict=True):
            pool.set_num_threads(threads)
        torch.set_num_threads(ours)
