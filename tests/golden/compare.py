"""Deviations from golden values, and what a golden step is compared by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shoal.models import Backbone


@dataclass(frozen=True)
class Deviation:
    """Largest deviations found, of losses and scores and of gradients and states; None where the file holds none."""

    loss: float | None = None
    state: float | None = None
    note: str = ""


def backbone() -> Backbone:
    """The backbone of all golden steps: flatten, Linear, ReLU."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU())
    return Backbone(network, 12, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def renamed(data: Mapping[str, Tensor], kind: str, places: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a golden step by the names our module gives them."""
    found = {}
    for name, value in data.items():
        for theirs, ours in places.items():
            if name.startswith(f"{kind}.{theirs}."):
                found[ours + name.removeprefix(f"{kind}.{theirs}")] = value
    return found


def off(ours: Tensor, theirs: Tensor) -> float:
    """Largest deviation, relative to the largest of their values."""
    scale = theirs.double().abs().max().clamp(min=1e-30)
    # Gradients that are zero in exact arithmetic (a bias before a batch-norm) are noise on both sides.
    return 0.0 if scale < 1e-6 else float((ours.detach().double() - theirs.double()).abs().max() / scale)


def apart(ours: Tensor, theirs: Tensor | float) -> float:
    """Absolute deviation of a scalar."""
    return abs(float(ours.detach() - theirs))


def worst(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest of many relative deviations; every one of their tensors must have ours."""
    return max(off(ours[name], value) for name, value in theirs.items())


def gradients(method: nn.Module) -> dict[str, Tensor]:
    """Gradient of each trainable parameter by its name."""
    return {name: p.grad for name, p in method.named_parameters() if p.requires_grad and p.grad is not None}


def backward(terms: Mapping[str, Tensor]) -> None:
    """As the trainer does it."""
    torch.stack(list(terms.values())).sum().backward()
