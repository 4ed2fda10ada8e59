"""shoal turns a pile of unlabelled images into meaningful clusters.

The names below load what they need when first used, so that ``import shoal`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.clustering import GaussianMixture, KMeans
    from shoal.errors import UserError
    from shoal.estimators import BYOL, CC, PCL, MoCo, ProPos, SimCLR, SimSiam
    from shoal.types import Images

__all__ = [
    "BYOL",
    "CC",
    "PCL",
    "GaussianMixture",
    "Images",
    "KMeans",
    "MoCo",
    "ProPos",
    "SimCLR",
    "SimSiam",
    "UserError",
]

_HOME = {
    "BYOL": "shoal.estimators",
    "CC": "shoal.estimators",
    "GaussianMixture": "shoal.clustering",
    "Images": "shoal.types",
    "KMeans": "shoal.clustering",
    "MoCo": "shoal.estimators",
    "PCL": "shoal.estimators",
    "ProPos": "shoal.estimators",
    "SimCLR": "shoal.estimators",
    "SimSiam": "shoal.estimators",
    "UserError": "shoal.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
