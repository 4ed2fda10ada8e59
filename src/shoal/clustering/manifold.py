"""Features in the few dimensions of their neighbourhood graph, where k-means and the silhouette see its groups."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from shoal.clustering.rows import Metric

N_NEIGHBORS = 10
N_COMPONENTS = 3


def umap_embedding(features: Float[Tensor, "n d"], *, metric: Metric, seed: int) -> Float[Tensor, "n 3"]:
    """UMAP (McInnes, Healy and Melville 2018) of features: 10 neighbours, 3 dimensions, points as dense as they get.

    The same seed gives the same embedding. It works on the CPU and answers in float32 on the features' device.

    Args:
        features: finite, on any device; rows must not be zero for the cosine.
        metric: by which rows are neighbours.
        seed: of the optimisation, 0 or more.
    """
    n = len(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that are not installed, and of graphs in pieces, which clusters are
        from umap import UMAP  # compiles itself, for seconds, when imported

        model = UMAP(
            n_neighbors=min(N_NEIGHBORS, n - 1),
            n_components=N_COMPONENTS,
            min_dist=0.0,
            metric=metric,
            init="spectral"
            if n > 2 * N_NEIGHBORS
            else "random",  # the spectrum of a few points has too few eigenvectors
            random_state=seed % 2**32,  # NumPy's seeds end there
            n_jobs=1,  # several would not repeat the result
        )
        embedded = model.fit_transform(features.detach().float().cpu().numpy())
    return torch.from_numpy(embedded).to(features.device)
