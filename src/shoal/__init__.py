"""shoal turns a pile of unlabelled images into meaningful clusters.

The names below load what they need when first used, so that ``import shoal`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.clustering import GaussianMixture, KMeans
    from shoal.errors import UserError
    from shoal.estimators import BYOL, ProPos
    from shoal.types import Images

__all__ = ["BYOL", "GaussianMixture", "Images", "KMeans", "ProPos", "UserError"]

_HOME = {
    "BYOL": "shoal.estimators",
    "GaussianMixture": "shoal.clustering",
    "Images": "shoal.types",
    "KMeans": "shoal.clustering",
    "ProPos": "shoal.estimators",
    "UserError": "shoal.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
