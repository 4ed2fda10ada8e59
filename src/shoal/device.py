"""The compute device: its precision and the state of torch's default random number generators."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from shoal import distributed


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 matrices are faster than those of float32; elsewhere they are emulated, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def compute_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


Precision = Literal["auto", "float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Run networks in bfloat16 where asked, or for "auto" where the hardware multiplies in it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16")


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """What "auto" comes to on a device."""
    if precision != "auto":
        return precision
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


States = dict[str, UInt8[Tensor, "_"]]
"""By device type."""


def preserve_rng(device: torch.device) -> AbstractContextManager[None]:
    """Leave torch's default generators after the block as they were before it: the host's, and that of this GPU."""
    # Without a word about devices torch forks those of all GPUs, and warns of it.
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def first_rng(device: torch.device, seed: int) -> States:
    """This rank's states at the start of a run: as they are on rank 0, where weights have just been drawn."""
    if distributed.is_first():
        return _states(device)
    with preserve_rng(device):
        # What ranks drop out must differ; and from a seed apart, so that rank 1 is not another run's rank 0.
        torch.manual_seed((seed + distributed.rank() * 0x9E3779B97F4A7C15) % 2**63)
        return _states(device)


def _states(device: torch.device) -> States:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_default_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's default generators into states that were read before."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def gathered_rng(device: torch.device) -> dict[str, Tensor]:
    """The states of all ranks, to be saved: a row each, or a vector in one process."""
    found = {f"rng.{name}": state for name, state in _states(device).items()}
    if distributed.world_size() == 1:
        return found
    return {name: distributed.gather(state[None].to(device)).cpu() for name, state in found.items()}


def own_rng(saved: Mapping[str, Tensor], device: torch.device, seed: int) -> States:
    """This rank's of the states that ``gathered_rng`` gave; those of a start where there were fewer ranks."""
    rank, own = distributed.rank(), first_rng(device, seed)
    for name in own.keys() & saved.keys():
        rows = saved[name].view(-1, saved[name].shape[-1])
        if rank < len(rows):
            own[name] = rows[rank].clone()  # PyTorch reads a state from where its memory begins
    return own
