"""The words that choose a clustering; in a module that loads none of them."""

from typing import Literal

ClusteringMethod = Literal["kmeans", "umap-kmeans", "gmm", "temi"]
