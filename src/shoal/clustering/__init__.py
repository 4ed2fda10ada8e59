"""Clustering of any feature matrix; knows no images."""

from shoal.clustering.beta import BetaMixture
from shoal.clustering.estimator import KMeans
from shoal.clustering.gaussian import GaussianMixture
from shoal.clustering.kmeans import assign, kmeans

__all__ = ["BetaMixture", "GaussianMixture", "KMeans", "assign", "kmeans"]
