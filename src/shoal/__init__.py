"""shoal turns a pile of unlabelled images into meaningful clusters.

The names below load what they need when first used, so that ``import shoal`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from shoal.lazily import exports

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

__getattr__, __dir__ = exports(
    __name__,
    {
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
    },
)
