from .centroids import cluster_centers
from .contingency import Contingency, adjusted_rand
from .density import UMAPHDBSCAN
from .internal import calinski_harabasz, davies_bouldin, silhouette
from .kmeans.estimator import KMeans
from .kmeans.minibatch import MiniBatchKMeans
from .linear import LinearHead
from .maps import layout, map_method, map_positions
from .mixtures.beta import BetaMixture
from .mixtures.gaussian import GaussianMixture
from .neighbours import approximate_neighbours, nearest_neighbours, neighbour_recall
from .rows import ClusteringMethod
from .saved import Clusterer, build_clusterer, clusterer_from, state_of
from .suggest.suggest import Suggestion, suggest_k
from .temi.estimator import TEMI
from .umap import UMAPKMeans

__all__ = [
    "TEMI",
    "UMAPHDBSCAN",
    "BetaMixture",
    "Clusterer",
    "ClusteringMethod",
    "Contingency",
    "GaussianMixture",
    "KMeans",
    "LinearHead",
    "MiniBatchKMeans",
    "Suggestion",
    "UMAPKMeans",
    "adjusted_rand",
    "approximate_neighbours",
    "build_clusterer",
    "calinski_harabasz",
    "cluster_centers",
    "clusterer_from",
    "davies_bouldin",
    "layout",
    "map_method",
    "map_positions",
    "nearest_neighbours",
    "neighbour_recall",
    "silhouette",
    "state_of",
    "suggest_k",
]
