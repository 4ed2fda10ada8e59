"""The learning rate as a function of the step; nothing to checkpoint."""

from __future__ import annotations

import math

from shoal.config import OptimConfig


def full_lr(batch_size: int, config: OptimConfig) -> float:
    """The rate after the warm-up grows with the batch (linear scaling: Goyal et al., arXiv 1706.02677)."""
    return config.lr * batch_size / 256


def lr_factor(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Share of the full rate at ``step`` (counted from 0 over the whole run).

    Linear warm-up, then ½·(1 + cos(π·epoch/epochs)) with the epoch counted from the end of the warm-up, moved at every
    step; or, epoch-wise, counted from the start of the run and moved once an epoch. Both as published with ProPos: the
    denominator is the whole run and not what the warm-up leaves of it, so the rate ends a little above zero.
    """
    warmup = config.warmup_epochs
    done = (step + 1) / steps_per_epoch
    ramp = min(1.0, done / warmup) if warmup else 1.0
    if config.schedule == "constant":
        return ramp
    epoch = max(0.0, done - warmup) if config.schedule == "iteration" else max(step // steps_per_epoch, warmup)
    return ramp * (1 + math.cos(math.pi * min(epoch, epochs) / epochs)) / 2
