"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable

import torch

from shoal.methods.base import Method, MethodConfig
from shoal.methods.byol import BYOL, BYOLConfig
from shoal.methods.cc import CC, CCConfig
from shoal.methods.emp import EMP, EMPConfig
from shoal.methods.moco import MoCo, MoCoConfig
from shoal.methods.pcl import PCL, PCLConfig
from shoal.methods.propos import ProPos, ProPosConfig
from shoal.methods.simclr import SimCLR, SimCLRConfig
from shoal.methods.simsiam import SimSiam, SimSiamConfig
from shoal.models import BackboneConfig, build_backbone

_BUILDERS: dict[type[MethodConfig], Callable[..., Method]] = {
    BYOLConfig: BYOL,
    CCConfig: CC,
    EMPConfig: EMP,
    MoCoConfig: MoCo,
    PCLConfig: PCL,
    ProPosConfig: ProPos,
    SimCLRConfig: SimCLR,
    SimSiamConfig: SimSiam,
}

METHODS: dict[str, type[MethodConfig]] = {config.name: config for config in _BUILDERS}
"""The config class of each method, by the name a recipe uses."""


def build(config: MethodConfig, backbone: BackboneConfig, n_clusters: int, generator: torch.Generator) -> Method:
    """The method a config describes, with fresh weights drawn from torch's default generator.

    ``generator`` gives the random numbers of training, on the device of the method.
    """
    method = _BUILDERS[type(config)](config, build_backbone(backbone), n_clusters, generator)
    # Channels last: half the time of a step on a CPU, and the layout that tensor cores use.
    return method.to(memory_format=torch.channels_last)


__all__ = [
    "BYOL",
    "CC",
    "EMP",
    "METHODS",
    "PCL",
    "BYOLConfig",
    "CCConfig",
    "EMPConfig",
    "Method",
    "MethodConfig",
    "MoCo",
    "MoCoConfig",
    "PCLConfig",
    "ProPos",
    "ProPosConfig",
    "SimCLR",
    "SimCLRConfig",
    "SimSiam",
    "SimSiamConfig",
    "build",
]
