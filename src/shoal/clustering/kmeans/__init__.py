"""k-means: estimators, restarts, start, Lloyd's iteration and its repairs."""

from shoal.clustering.kmeans.restarts import assign, kmeans

__all__ = ["assign", "kmeans"]
