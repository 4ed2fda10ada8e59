"""Clusters of the features of a frozen network, or of features from a file: from a source to a finished folder."""

from shoal.frozen.clustered import Clustered
from shoal.frozen.folder import ClusterFolder

__all__ = ["ClusterFolder", "Clustered"]
