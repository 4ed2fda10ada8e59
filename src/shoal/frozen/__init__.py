"""Clusters of the features of a frozen network, or of features from a file: from a source to a finished folder.

The names load what they need when first used, for the command line reads this package's settings at every start.
"""

from typing import TYPE_CHECKING

from shoal.lazily import exports

if TYPE_CHECKING:
    from shoal.frozen.clustered import Clustered
    from shoal.frozen.folder import ClusterFolder

__all__ = ["ClusterFolder", "Clustered"]

__getattr__, __dir__ = exports(
    __name__, {"ClusterFolder": "shoal.frozen.folder", "Clustered": "shoal.frozen.clustered"}
)
