from .clustering.kmeans.estimator import KMeans
from .clustering.mixtures.gaussian import GaussianMixture
from .errors import UserError
from .estimators import BYOL, CC, PCL, MoCo, ProPos, SimCLR, SimSiam
from .types import Images

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
