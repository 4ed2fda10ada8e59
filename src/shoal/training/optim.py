"""The optimiser, and how its rate is set."""

from __future__ import annotations

import torch

from shoal.config import OptimConfig
from shoal.methods import Method


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.SGD:
    """SGD over the method's parameter groups; the rate is set at each step."""
    return torch.optim.SGD(
        method.param_groups(), lr=0.0, momentum=config.momentum, weight_decay=config.weight_decay
    )


def set_lr(optimizer: torch.optim.Optimizer, config: OptimConfig, batch_size: int, factor: float) -> float:
    """Give each group lr × batch/256 × its ``lr_scale`` × factor (linear scaling: Goyal et al., arXiv 1706.02677).

    Returns:
        The rate of a group without ``lr_scale``.
    """
    lr = config.lr * batch_size / 256 * factor
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    return lr
