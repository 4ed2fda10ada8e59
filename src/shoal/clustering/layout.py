"""Where to draw rows in the plane, so that neighbours stand together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.rows import Metric, Rows, invalid_features_error
from shoal.clustering.umap import MAX_ROWS, subsample, umap_embedding

FEW = 15
"""Fewer rows have no neighbourhoods to speak of and are shown by principal components."""

MIN_DIST = 0.1
GUIDES = 3


def map_positions(features: Float[Tensor, "n d"], *, metric: Metric, seed: int) -> Float32[Tensor, "n 2"]:
    """Rows in two dimensions, by UMAP (McInnes, Healy and Melville 2018).

    Up to 10 000 rows are embedded, a random sample if there are more; the others stand at the mean of their 3 nearest
    embedded rows, weighted by one over distance. Fewer than 15 rows are shown in the plane in which they vary most.
    The same seed gives the same places.

    Args:
        features: on any device; read in chunks.
        metric: by which rows are neighbours.
        seed: of the sample and the embedding, 0 or more.

    Raises:
        UserError: NaN, infinity, zero rows under the cosine, squares that overflow in float32.
    """
    features = features.detach()
    if len(features) < FEW:
        return _principal_plane(features, metric)
    generator = torch.Generator().manual_seed(seed)
    drawn = subsample(len(features), MAX_ROWS, generator).to(features.device)
    rows = features[drawn].float()
    embedded = umap_embedding(rows, metric=metric, seed=seed, n_components=2, min_dist=MIN_DIST)
    if len(drawn) == len(features):
        return embedded
    near, distances = nearest_neighbours(rows, GUIDES, metric, features)
    weights = 1 / distances.clamp(min=torch.finfo(distances.dtype).eps)
    places = (weights[:, :, None] * embedded[near]).sum(1) / weights.sum(1, keepdim=True)
    places[drawn] = embedded
    return places


def _principal_plane(features: Float[Tensor, "n d"], metric: Metric) -> Float32[Tensor, "n 2"]:
    if not len(features):
        return features.new_zeros(0, 2, dtype=torch.float32)
    rows = Rows(features, metric, dtype=torch.float64)[:]
    if not torch.isfinite(rows).all():
        raise invalid_features_error(features)
    left, sizes, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    plane = (left * sizes)[:, :2]
    return F.pad(plane, (0, 2 - plane.shape[1])).float()
