"""Features in the few dimensions of their neighbourhood graph, where k-means and the silhouette see its groups."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.rows import Metric
from shoal.errors import UserError

N_NEIGHBORS = 10
N_COMPONENTS = 3

MAX_ROWS = 10_000
"""UMAP of so many takes a minute on one core; of more, so many are drawn."""

MIN_ROWS = 3


def umap_embedding(
    features: Float[Tensor, "n d"],
    *,
    metric: Metric,
    seed: int,
    n_components: int = N_COMPONENTS,
    min_dist: float = 0.0,
) -> Float[Tensor, "n c"]:
    """UMAP (McInnes, Healy and Melville 2018) of features: 10 neighbours, 3 dimensions, points as dense as they get.

    The same seed gives the same embedding. It works on the CPU and answers in float32 on the features' device.

    Args:
        features: finite, on any device; rows must not be zero for the cosine.
        metric: by which rows are neighbours.
        seed: of the optimisation, 0 or more.
        n_components: dimensions of the embedding; fewer dimensions are easier to look at, 3 to cluster.
        min_dist: how far apart points are kept; 0 to cluster them, 0.1 to tell them apart in a picture.

    Raises:
        UserError: fewer than 3 rows.
    """
    n = len(features)
    if n < MIN_ROWS:
        raise UserError(f"UMAP has no graph of {n} rows (n_samples={n}): give {MIN_ROWS} at least.")
    n_neighbors = min(N_NEIGHBORS, n - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that are not installed, and of graphs in pieces, which clusters are
        from umap import UMAP  # compiles itself, for seconds, when imported

        model = UMAP(
            n_neighbors=n_neighbors,
            n_components=n_components,
            min_dist=min_dist,
            metric=metric,
            # The spectrum of a few points has too few eigenvectors.
            init="spectral" if n > 2 * N_NEIGHBORS else "random",
            precomputed_knn=(*nearest_rows(features, n_neighbors, metric), None),
            random_state=seed % 2**32,  # NumPy's seeds end there
            n_jobs=1,  # several would not repeat the result
        )
        embedded = model.fit_transform(features.detach().float().cpu().numpy())
    return torch.from_numpy(embedded).to(features.device)


def nearest_rows(
    features: Float[Tensor, "n d"], k: int, metric: Metric
) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k nearest rows of each row, itself the first of them, nearest first: their numbers and distances.

    UMAP would call a function for each pair of some thousand rows, and compile an approximation for more. These are
    exact, and take less time than either up to the ten thousand rows that they are used for.
    """
    numbers, distances = nearest_neighbours(features.detach(), k - 1, metric)
    own = torch.arange(len(features), device=features.device)[:, None]
    numbers = torch.cat([own, numbers], 1)
    distances = torch.cat([torch.zeros_like(distances[:, :1]), distances], 1)
    return numbers.int().cpu().numpy(), distances.cpu().numpy()


def drawn_rows(n: int, most: int, generator: torch.Generator) -> Int64[Tensor, "m"]:
    """Numbers of at most so many of n rows, in their order; all of them, without a draw, if they are no more."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=generator)[:most].sort().values
