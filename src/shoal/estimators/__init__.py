"""The scikit-learn face: ``shoal.ProPos(n_clusters=10).fit(images).labels_``."""

from shoal.estimators.base import DeepClusterer
from shoal.estimators.methods import BYOL, CC, EMP, PCL, MoCo, ProPos, SimCLR, SimSiam, estimator_of

__all__ = ["BYOL", "CC", "EMP", "PCL", "DeepClusterer", "MoCo", "ProPos", "SimCLR", "SimSiam", "estimator_of"]
