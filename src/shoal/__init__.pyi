from .clustering.kmeans.estimator import KMeans
from .clustering.mixtures.gaussian import GaussianMixture
from .errors import UserError
from .estimators import BYOL, CC, EMP, PCL, MoCo, ProPos, SimCLR, SimSiam, estimator_of
from .plugins import load_plugin
from .types import Images

__all__ = [
    "BYOL",
    "CC",
    "EMP",
    "PCL",
    "GaussianMixture",
    "Images",
    "KMeans",
    "MoCo",
    "ProPos",
    "SimCLR",
    "SimSiam",
    "UserError",
    "estimator_of",
    "load_plugin",
]
