"""A map of the rows: positions in the plane that keep neighbours together."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from torch import Tensor

from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, invalid_features_error, power_of_two, subsample
from shoal.device import hold_threads
from shoal.mapped import release, scratch

MAX_ROWS = 10_000
"""Rows that t-SNE lays out; any others are placed among them."""

FEW_ROWS = 15
"""Fewer rows have no neighbourhoods to speak of: their first two principal components are shown."""

AT_ONCE = 65_536
"""Rows that are placed at a time."""

GUIDES = 3
"""Nearest laid-out rows that decide where each of the others is placed."""

N_COMPONENTS = 50
TSNE_SETTINGS = {"max_iter": 300, "angle": 1.0}
ROWS_PER_RATE = 9
"""Rows for each unit of the learning rate."""

PERPLEXITY = 15.0
"""On 1 797 digits these settings keep as many neighbours as 500 iterations at scikit-learn's defaults, in half the
time; see ``benchmarks/layout.py``."""


def map_positions(
    features: Float[Tensor, "n d"], *, metric: Metric, seed: int, shards: Shards = LOCAL
) -> Float32[Tensor, "n 2"]:
    """Positions in the plane by t-SNE (van der Maaten and Hinton 2008) of up to 50 principal components.

    Of more than 10 000 rows a random sample is laid out; each of the others is placed at the mean of its 3 nearest
    rows in the sample, weighted by one over distance. Fewer than 15 rows are shown by two principal components. The
    same seed gives the same map.

    Args:
        features: on any device, or a memory map; only the sample is held in memory, the rest is read in chunks.
        metric: decides which rows are neighbours.
        seed: for the sample and the embedding, 0 or more.
        shards: whether all ranks see the features and place a share of the rows each; the first lays out the sample.

    Raises:
        UserError: NaN, infinity, zero rows under the cosine; of more than 10 000, squares that overflow.
    """
    features = features.detach()
    positions = scratch((len(features), 2), torch.float32).to(features.device)
    sample = subsample(len(features), MAX_ROWS, torch.Generator().manual_seed(seed)).to(features.device)
    if not len(sample):
        return positions
    rows = Rows(features, metric)[sample]
    rows = rows - rows.mean(0)
    rows = (rows / power_of_two(rows)).float()
    if not torch.isfinite(4 * rows.square().sum()):
        raise invalid_features_error(features)

    def laid_out() -> list[Tensor]:
        # A single thread gives the same map on any machine, and on busy cores is far faster than threads that wait.
        with hold_threads(1):
            return [torch.from_numpy(_embed(rows.cpu().numpy(), seed % 2**32))]

    [embedded] = shards.tensors_of_first(laid_out)
    positions[sample] = embedded.to(features.device)
    if len(sample) < len(features):
        known, places, own = features[sample], positions[sample].clone(), shards.part(len(features))
        for start in range(own.start, own.stop, AT_ONCE):
            part = slice(start, min(start + AT_ONCE, own.stop))
            positions[part] = place_among(known, places, features[part], metric=metric)
            release(features, positions)
        positions = shards.gather(positions[own])
        positions[sample] = places
    return positions


def place_among(
    rows: Float[Tensor, "m d"], positions: Float32[Tensor, "m 2"], others: Float[Tensor, "n d"], *, metric: Metric
) -> Float32[Tensor, "n 2"]:
    """Places on a map of rows for others: the mean of the 3 nearest rows, weighted by one over distance.

    Args:
        rows: up to some ten thousand, at least one.
        positions: of these.
        others: the rows to place.
        metric: decides which rows are near.

    Raises:
        UserError: NaN, infinity, zero rows under the cosine, squares that overflow.
    """
    nearest, distances = nearest_neighbours(rows, min(GUIDES, len(rows)), metric, others)
    info = torch.finfo(distances.dtype)
    weights = 1 / (distances / distances.amax(1, keepdim=True).clamp(min=info.tiny)).clamp(min=info.eps)
    return (weights[:, :, None] * positions[nearest]).sum(1) / weights.sum(1, keepdim=True)


def map_method(n: int) -> str:
    """How ``map_positions`` lays out ``n`` rows, in words for the reader of a map."""
    if n < FEW_ROWS:
        return "principal components"
    if n <= MAX_ROWS:
        return "t-SNE"
    return f"t-SNE of {MAX_ROWS:,} drawn at random; the others are placed among their {GUIDES} nearest of these"


def _embed(rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    from sklearn.decomposition import PCA  # slow to import, so only where a map is drawn
    from sklearn.manifold import TSNE

    n, d = rows.shape
    if n < 2 or not np.ptp(rows, axis=0).any():
        return np.zeros((n, 2), np.float32)
    components: NDArray[np.float32] = PCA(min(N_COMPONENTS, n, d), random_state=seed).fit_transform(rows)
    components /= components[:, 0].std()
    start = np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - d))))
    if n < FEW_ROWS:
        return start
    perplexity = min(PERPLEXITY, (n - 1) / 3)
    rate = n / ROWS_PER_RATE
    tsne = TSNE(perplexity=perplexity, learning_rate=rate, init=start * 1e-4, random_state=seed, **TSNE_SETTINGS)
    embedded: NDArray[np.float32] = tsne.fit_transform(components)
    return embedded


layout = map_positions
"""The name that version 0.1 has for ``map_positions``."""
