"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from shoal.methods.base import Method, MethodConfig
from shoal.methods.byol import BYOL, BYOLConfig
from shoal.methods.propos import ProPos, ProPosConfig
from shoal.models import BackboneConfig, build_backbone

METHODS: dict[str, type[MethodConfig]] = {config.name: config for config in (BYOLConfig, ProPosConfig)}
"""The config class of each method, by the name a recipe uses."""

_BUILDERS: dict[type[MethodConfig], Callable[..., Method]] = {BYOLConfig: BYOL, ProPosConfig: ProPos}


def build(config: MethodConfig, backbone: BackboneConfig, n_clusters: int, generator: torch.Generator) -> Method:
    """The method a config describes, with fresh weights drawn from torch's default generator.

    ``generator`` serves the random numbers of training itself; it lives on the device the method will train on.
    """
    method = _BUILDERS[type(config)](config, build_backbone(backbone), n_clusters, generator)
    # Channels last: half the time of a step on a CPU, and what a GPU's tensor cores want.
    return method.to(memory_format=torch.channels_last)


__all__ = ["BYOL", "METHODS", "BYOLConfig", "Method", "MethodConfig", "ProPos", "ProPosConfig", "build"]
