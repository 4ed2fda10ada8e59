"""Plain methods on the same features and on the pixels: what a method has to beat to earn its keep."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal.clustering.contingency import adjusted_rand
from shoal.clustering.kmeans import kmeans
from shoal.clustering.rows import Metric
from shoal.clustering.umap import umap_embedding
from shoal.errors import UserError
from shoal.evaluation.metrics import clustering_scores
from shoal.evaluation.result import Baseline, PlainMethod, PlainSource
from shoal.evaluation.truth import Truth
from shoal.types import Clustering

MAX_ROWS = 10_000
"""Images that UMAP sees, and those whose pixels are read; of more, so many are drawn. The standard error of a share is
then 0.005 at most, and UMAP and k-means of so many take a minute or two on one core."""

MAX_SIDE = 32
"""Height and width in pixels to which larger images are brought by averaging."""

QUICK_ROWS = 4096
"""UMAP of no more takes seconds once its code is compiled."""

_LOG = logging.getLogger("shoal")


def plain_baselines(
    truth: Truth,
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    seed: int,
    *,
    of: Literal["features", "backbone"] = "features",
    pixels: UInt8[Tensor, "n 3 h w"] | None = None,
) -> list[Baseline]:
    """k-means, and UMAP (10 neighbours, 3 dimensions) with k-means in it, for as many clusters.

    Features are compared by the cosine, pixels and UMAP's coordinates by Euclidean distance. A method that fails says
    why in place of its figures. One that takes long is announced as a warning.

    Args:
        truth: of the n rows; those that take part in the clustering are clustered here as well.
        features: what was clustered or, beside the clusters of a head, what the backbone gave.
        clustering: what the plain methods are held against; k is the number of its centres.
        seed: of UMAP and of the rows that are drawn; k-means starts from the next, so as not to repeat that of
            ``clustering``.
        of: what ``features`` are.
        pixels: of the images, where they are at hand.
    """
    rows = truth.clustered.cpu().nonzero()[:, 0]
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:MAX_ROWS].sort().values
    sample = rows[drawn]
    labels, clusters, k = truth.targets.cpu(), clustering.labels.cpu(), len(clustering.centers)

    def baseline(of: PlainSource, index: Int64[Tensor, "m"], points: Float[Tensor, "m e"], *, umap: bool) -> Baseline:
        method: PlainMethod = "UMAP + k-means" if umap else "k-means"
        sampled = len(index) if len(index) < len(rows) else None
        try:
            found = _clusters(points, k, "euclidean" if of == "pixels" else "cosine", seed, umap=umap)
        except UserError as error:
            return Baseline(method, of, sampled, {}, None, str(error))
        agreement = adjusted_rand(found, clusters[index])
        return Baseline(method, of, sampled, clustering_scores(labels[index], found), agreement, None)

    _announce(len(sample))
    plain = [baseline(of, rows, features[rows.to(features.device)], umap=False)]
    plain.append(baseline(of, sample, features[sample.to(features.device)], umap=True))
    if pixels is not None:
        small = _small(pixels, sample).to(features.device)
        plain += [baseline("pixels", sample, small, umap=umap) for umap in (False, True)]
    return plain


def _clusters(
    points: Float[Tensor, "m e"], n_clusters: int, metric: Metric, seed: int, *, umap: bool
) -> Int64[Tensor, "m"]:
    generator = torch.Generator(points.device).manual_seed(seed + 1)
    if umap:
        points, metric = _embedded(points, metric, seed), "euclidean"
    return kmeans(points, n_clusters, generator=generator, metric=metric).labels.cpu()


def _embedded(points: Float[Tensor, "m e"], metric: Metric, seed: int) -> Float[Tensor, "m 3"]:
    try:
        return umap_embedding(points, metric=metric, seed=seed)
    except Exception as error:  # it depends on much, all of which fails in its own way; the other figures stand
        raise UserError(f"UMAP of {len(points)} rows failed, {error}") from error


def _small(pixels: UInt8[Tensor, "n 3 h w"], rows: Int64[Tensor, "m"]) -> Float[Tensor, "m p"]:
    """Pixels of some images in [0, 1], in a row each; read in parts, as they may be a memory map of large images."""
    h, w = pixels.shape[2:]
    size = min(h, MAX_SIDE), min(w, MAX_SIDE)
    parts = [F.interpolate(pixels[part].float(), size=size, mode="area") for part in torch.split(rows, 256)]
    return torch.cat(parts).flatten(1) / 255


def _announce(n: int) -> None:
    if n > QUICK_ROWS or "umap" not in sys.modules:
        how_long = "a few minutes" if n > QUICK_ROWS else "a minute"
        _LOG.warning("comparing with k-means and UMAP on %d images, which can take %s", n, how_long)
