"""Clustering of any feature matrix; knows no images."""

from shoal.clustering.beta import BetaMixture
from shoal.clustering.contingency import Contingency, adjusted_rand
from shoal.clustering.estimator import KMeans
from shoal.clustering.gaussian import GaussianMixture
from shoal.clustering.internal import calinski_harabasz, davies_bouldin, silhouette
from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.minibatch import MiniBatchKMeans
from shoal.clustering.suggest import Suggestion, suggest_k

__all__ = [
    "BetaMixture",
    "Contingency",
    "GaussianMixture",
    "KMeans",
    "MiniBatchKMeans",
    "Suggestion",
    "adjusted_rand",
    "assign",
    "calinski_harabasz",
    "davies_bouldin",
    "kmeans",
    "silhouette",
    "suggest_k",
]
