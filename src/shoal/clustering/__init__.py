"""Clustering of any feature matrix; knows no images."""

from shoal.clustering.beta import BetaMixture
from shoal.clustering.contingency import Contingency, adjusted_rand
from shoal.clustering.estimator import KMeans
from shoal.clustering.gaussian import GaussianMixture
from shoal.clustering.internal import calinski_harabasz, davies_bouldin, silhouette
from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.membership import cluster_centers
from shoal.clustering.minibatch import MiniBatchKMeans
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.plane import layout
from shoal.clustering.saved import Clusterer, ClusteringMethod, build_clusterer, clusterer_from, state_of
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
