"""The optimiser, and how its rate is set."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shoal.config import OptimConfig
from shoal.lars import LARS, without_adaptation
from shoal.methods import Method


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser over the method's parameter groups; the rate is set at each step."""
    groups = method.param_groups()
    if config.optimizer == "adam":
        betas = (config.momentum, 0.999)
        return torch.optim.Adam(groups, lr=0.0, betas=betas, weight_decay=config.weight_decay, fused=True)
    momentum, decay = config.momentum, config.weight_decay
    if config.optimizer == "lars":
        return LARS(without_adaptation(groups), lr=0.0, momentum=momentum, weight_decay=decay)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=decay, fused=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that a file holds, as ``INDEX.NAME``: of each parameter, in their order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # A file keeps no strides, and the fused step pairs values as they lie in memory.
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def set_lr(optimizer: torch.optim.Optimizer, full: float, factor: float) -> None:
    """Give each parameter group its rate: the full one times the schedule's factor and the group's ``lr_scale``.

    A group whose ``lr_decays`` is False keeps the full rate throughout.
    """
    for group in optimizer.param_groups:
        share = factor if group.get("lr_decays", True) else 1.0
        group["lr"] = full * share * group.get("lr_scale", 1.0)
