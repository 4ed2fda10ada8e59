"""The optimiser, and how its rate is set."""

from __future__ import annotations

import torch

from shoal.config import OptimConfig
from shoal.methods import Method


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.SGD:
    """SGD over the method's parameter groups; the rate is set at each step."""
    return torch.optim.SGD(method.param_groups(), lr=0.0, momentum=config.momentum, weight_decay=config.weight_decay)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each parameter group the rate, times its ``lr_scale`` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
