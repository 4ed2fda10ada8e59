"""The optimiser, and how its rate is set."""

from __future__ import annotations

import torch

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


def set_lr(optimizer: torch.optim.Optimizer, full: float, factor: float) -> None:
    """Give each parameter group its rate: the full one times the schedule's factor and the group's ``lr_scale``.

    A group whose ``lr_decays`` is False keeps the full rate throughout.
    """
    for group in optimizer.param_groups:
        share = factor if group.get("lr_decays", True) else 1.0
        group["lr"] = full * share * group.get("lr_scale", 1.0)
