"""The methods by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from shoal.errors import UserError
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
from shoal.plugins import Registry, check_settings, place_of


def _check(method: type[Method]) -> None:
    """Raise a UserError for a method whose settings are not what flags and recipes are made of."""
    kind = getattr(method, "config_class", None)
    where = place_of(method)
    if not (isinstance(kind, type) and issubclass(kind, MethodConfig)):
        raise UserError(
            f"{where}: the method {method.__name__} lacks config_class, a dataclass of its settings that derives from "
            "shoal.methods.MethodConfig."
        )
    check_settings(kind, f"{kind.__name__}, the settings of a method")
    for field in dataclasses.fields(kind):
        if field.name == "name":
            raise UserError(
                f"{place_of(kind)}: the name of a method is not a setting: write name: ClassVar[str] = "
                f"{field.default!r}."
            )


METHODS = Registry[Method](
    "method",
    Method,  # type: ignore[type-abstract]
    "shoal.methods",
    lambda kind: getattr(kind.config_class, "name", None),
    _check,
)
"""The class of each method, by the name a recipe uses."""

for _each in (BYOL, CC, EMP, MoCo, PCL, ProPos, SimCLR, SimSiam):
    METHODS.add(_each)


def build(config: MethodConfig, backbone: BackboneConfig, n_clusters: int, generator: torch.Generator) -> Method:
    """The method a config describes, with fresh weights drawn from torch's default generator.

    ``generator`` gives the random numbers of training, on the device of the method.
    """
    return assemble(METHODS[config.name], config, backbone, n_clusters, generator)


def assemble(
    kind: type[Method], config: MethodConfig, backbone: BackboneConfig, n_clusters: int, generator: torch.Generator
) -> Method:
    """``build`` for a method that need not be known by its name."""
    construct: Callable[..., Method] = kind
    method = construct(config, build_backbone(backbone), n_clusters, generator)
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
    "assemble",
    "build",
]
