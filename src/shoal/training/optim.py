"""The optimiser and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from shoal.config import OptimConfig
from shoal.methods import Method
from shoal.models import Backbone


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of the method's parameter groups; ``set_lr`` sets the rate at each step."""
    groups = [*_trained_groups(method, config.backbone_lr_scale)]
    if config.optimizer == "adam":
        betas = (config.momentum, 0.999)
        return torch.optim.Adam(groups, lr=0.0, betas=betas, weight_decay=config.weight_decay, fused=True)
    momentum, decay = config.momentum, config.weight_decay
    if config.optimizer == "lars":
        return _lars(groups, momentum, decay)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, weight_decay=decay, fused=True)


def _trained_groups(method: Method, backbone_scale: float) -> Iterator[dict[str, Any]]:
    """The method's groups without what is frozen; the backbone's parameters apart where they have another rate."""
    backbones = [part for part in method.modules() if isinstance(part, Backbone)]
    slow = {id(p) for part in backbones for p in part.parameters()} if backbone_scale != 1 else set()
    for group in method.param_groups():
        trained = [p for p in group["params"] if p.requires_grad]
        apart = [p for p in trained if id(p) in slow]
        rest = [p for p in trained if id(p) not in slow]
        if apart:
            yield group | {"params": apart, "lr_scale": backbone_scale * group.get("lr_scale", 1.0)}
        if rest:
            yield group | {"params": rest}


def _lars(groups: Iterable[dict[str, Any]], momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """LARS (arXiv 1708.03888); biases and batch-norm take plain steps, without adaptation and weight decay."""
    from timm.optim.lars import Lars  # 1 s to import: only runs that use it pay

    split = []
    for group in groups:
        weights = [p for p in group["params"] if p.ndim > 1]
        others = [p for p in group["params"] if p.ndim <= 1]
        split += [group | {"params": weights, "always_adapt": True}] if weights else []
        split += [group | {"params": others, "weight_decay": 0.0}] if others else []
    return Lars(split, lr=0.0, momentum=momentum, weight_decay=weight_decay)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore an optimiser's state from a file's tensors, named ``INDEX.NAME`` by the order of its parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # A file keeps no strides, but the fused step pairs values by their place in memory.
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def set_lr(optimizer: torch.optim.Optimizer, full: float, factor: float) -> None:
    """Set the rate of each parameter group: ``full`` times the schedule's ``factor`` and the group's ``lr_scale``.

    A group whose ``lr_decays`` is False keeps the full rate throughout.
    """
    for group in optimizer.param_groups:
        share = factor if group.get("lr_decays", True) else 1.0
        group["lr"] = full * share * group.get("lr_scale", 1.0)


def full_lr(batch_size: int, config: OptimConfig) -> float:
    """The rate after warm-up, proportional to the batch size (linear scaling, Goyal et al., arXiv 1706.02677)."""
    return config.lr * batch_size / 256


def lr_factor(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Fraction of the full rate at ``step`` (counted from 0 over the whole run).

    Linear warm-up, then ½·(1 + cos(π·epoch/epochs)): with the epoch counted from the end of the warm-up and updated at
    every step, or, for "epoch", counted from the start of the run and updated once an epoch. Both as published with
    ProPos: the denominator is the whole run and not what is left after warm-up, so the rate ends a little above zero.
    """
    warmup = config.warmup_epochs
    done = (step + 1) / steps_per_epoch
    ramp = min(1.0, done / warmup) if warmup else 1.0
    if config.schedule == "constant":
        return ramp
    epoch = max(0.0, done - warmup) if config.schedule == "iteration" else max(step // steps_per_epoch, warmup)
    return ramp * (1 + math.cos(math.pi * min(epoch, epochs) / epochs)) / 2
