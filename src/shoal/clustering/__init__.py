"""Clustering of any feature matrix; knows no images.

All names but k-means load what they need when first used: a training needs no scikit-learn, which takes a second.
"""

from typing import TYPE_CHECKING

from shoal.clustering.kmeans import assign, kmeans
from shoal.lazily import exports

if TYPE_CHECKING:
    from shoal.clustering.beta import BetaMixture
    from shoal.clustering.contingency import Contingency, adjusted_rand
    from shoal.clustering.estimator import KMeans
    from shoal.clustering.gaussian import GaussianMixture
    from shoal.clustering.internal import calinski_harabasz, davies_bouldin, silhouette
    from shoal.clustering.membership import cluster_centers
    from shoal.clustering.minibatch import MiniBatchKMeans
    from shoal.clustering.names import ClusteringMethod
    from shoal.clustering.neighbours import nearest_neighbours
    from shoal.clustering.plane import layout
    from shoal.clustering.saved import Clusterer, build_clusterer, clusterer_from, state_of
    from shoal.clustering.suggest import Suggestion, suggest_k
    from shoal.clustering.temi import TEMI
    from shoal.clustering.umapkmeans import UMAPKMeans

__all__ = [
    "TEMI",
    "BetaMixture",
    "Clusterer",
    "ClusteringMethod",
    "Contingency",
    "GaussianMixture",
    "KMeans",
    "MiniBatchKMeans",
    "Suggestion",
    "UMAPKMeans",
    "adjusted_rand",
    "assign",
    "build_clusterer",
    "calinski_harabasz",
    "cluster_centers",
    "clusterer_from",
    "davies_bouldin",
    "kmeans",
    "layout",
    "nearest_neighbours",
    "silhouette",
    "state_of",
    "suggest_k",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "BetaMixture": "shoal.clustering.beta",
        "Clusterer": "shoal.clustering.saved",
        "ClusteringMethod": "shoal.clustering.names",
        "Contingency": "shoal.clustering.contingency",
        "GaussianMixture": "shoal.clustering.gaussian",
        "KMeans": "shoal.clustering.estimator",
        "MiniBatchKMeans": "shoal.clustering.minibatch",
        "Suggestion": "shoal.clustering.suggest",
        "TEMI": "shoal.clustering.temi",
        "UMAPKMeans": "shoal.clustering.umapkmeans",
        "adjusted_rand": "shoal.clustering.contingency",
        "build_clusterer": "shoal.clustering.saved",
        "calinski_harabasz": "shoal.clustering.internal",
        "cluster_centers": "shoal.clustering.membership",
        "clusterer_from": "shoal.clustering.saved",
        "davies_bouldin": "shoal.clustering.internal",
        "layout": "shoal.clustering.plane",
        "nearest_neighbours": "shoal.clustering.neighbours",
        "silhouette": "shoal.clustering.internal",
        "state_of": "shoal.clustering.saved",
        "suggest_k": "shoal.clustering.suggest",
    },
)
