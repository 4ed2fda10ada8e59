"""Features in the few dimensions of their neighbourhood graph, where k-means and the silhouette see its groups."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32
from torch import Tensor

from shoal.clustering.rows import Metric

N_NEIGHBORS = 10
N_COMPONENTS = 3

CHUNK = 2**22
"""Numbers that are held at a time."""


def umap_embedding(features: Float[Tensor, "n d"], *, metric: Metric, seed: int) -> Float[Tensor, "n 3"]:
    """UMAP (McInnes, Healy and Melville 2018) of features: 10 neighbours, 3 dimensions, points as dense as they get.

    The same seed gives the same embedding. It works on the CPU and answers in float32 on the features' device.

    Args:
        features: finite, on any device; rows must not be zero for the cosine.
        metric: by which rows are neighbours.
        seed: of the optimisation, 0 or more.
    """
    n = len(features)
    n_neighbors = min(N_NEIGHBORS, n - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that are not installed, and of graphs in pieces, which clusters are
        from umap import UMAP  # compiles itself, for seconds, when imported

        model = UMAP(
            n_neighbors=n_neighbors,
            n_components=N_COMPONENTS,
            min_dist=0.0,
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
    """The k nearest rows of each row, itself among them, nearest first: their numbers and distances.

    UMAP would call a function for each pair of some thousand rows, and compile an approximation for more. These are
    exact, and take less time than either up to the ten thousand rows that they are used for.
    """
    rows = F.normalize(features.detach().float()) if metric == "cosine" else features.detach().float()
    rows = rows - rows.mean(0)  # ‖x‖² − 2x·y + ‖y‖² cancels far from the origin
    lengths = rows.square().sum(1)
    numbers, squares = [], []
    step = max(1, CHUNK // max(len(rows), k * rows.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        near = torch.addmm(lengths, part, rows.T, alpha=-2).topk(k, largest=False).indices
        apart = (part[:, None] - rows[near]).square().sum(2)
        order = apart.argsort(dim=1, stable=True)
        numbers.append(near.gather(1, order))
        squares.append(apart.gather(1, order))
    squared = torch.cat(squares)
    distances = squared / 2 if metric == "cosine" else squared.sqrt()
    return torch.cat(numbers).int().cpu().numpy(), distances.cpu().numpy()
