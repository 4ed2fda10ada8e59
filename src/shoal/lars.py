"""LARS: stochastic gradient descent whose rate adapts to each layer, for large batches (arXiv 1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum μ in which each tensor's step is as long as a share of the tensor itself.

        g ← ∇L(w) + β·w
        v ← μ·v + g·η·‖w‖/‖g‖        (the ratio is 1 where either norm is 0)
        w ← w − lr·v

    A group with ``adapt: False`` takes plain steps, without ratio and without weight decay: biases and batch-norm, as
    ``without_adaptation`` sets them apart.

    Args:
        params: parameters, or groups of them; a group may set any of the values below and ``adapt``.
        lr: rate; the ratio multiplies it.
        momentum: μ.
        weight_decay: β.
        trust_coefficient: η, the share of a tensor's norm that a step at rate 1 has.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step along the gradients of the parameters that have one; ``closure`` computes them first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step(params, group)
        return loss

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = [p.grad for p in params if p.grad is not None]
        if group["adapt"]:
            updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
            torch._foreach_mul_(updates, _trust_ratios(params, updates, group["trust_coefficient"]))
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(params, momenta, alpha=-group["lr"])


def _trust_ratios(params: list[Tensor], updates: list[Tensor], coefficient: float) -> list[Tensor]:
    norms = torch.stack(torch._foreach_norm(params)), torch.stack(torch._foreach_norm(updates))
    ratios = coefficient * norms[0] / norms[1]
    return list(torch.where((norms[0] > 0) & (norms[1] > 0), ratios, 1.0).unbind())


def without_adaptation(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split each group into its weights, and its biases and batch-norm: the parameters of one dimension.

    The latter's group has ``adapt: False``; other keys are kept, and empty groups left out.
    """
    split = []
    for group in groups:
        weights = [p for p in group["params"] if p.ndim > 1]
        others = [p for p in group["params"] if p.ndim <= 1]
        split += [group | {"params": weights}] if weights else []
        split += [group | {"params": others, "adapt": False}] if others else []
    return split
