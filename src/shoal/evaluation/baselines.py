"""Plain methods on the same features and on pixels, as baselines for a method."""

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
from shoal.clustering.rows import Metric, subsample
from shoal.clustering.umap import umap_embedding
from shoal.errors import UserError
from shoal.evaluation.metrics import clustering_scores
from shoal.evaluation.result import Baseline, PlainMethod, PlainSource
from shoal.evaluation.truth import Truth
from shoal.types import Clustering

MAX_ROWS = 10_000
"""Sample size for UMAP and for pixels. The standard error of a share is then at most 0.005, and UMAP and k-means take a
minute or two on one core."""

MAX_SIDE = 32
"""Height and width in pixels to which larger images are reduced by averaging."""

QUICK_ROWS = 4096
"""Rows up to which UMAP takes seconds once it is compiled."""

_LOG = logging.getLogger("shoal")


def plain_baselines(
    truth: Truth,
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    seed: int,
    *,
    n_clusters: int | None = None,
    of: Literal["features", "backbone"] = "features",
    pixels: UInt8[Tensor, "n 3 h w"] | None = None,
) -> list[Baseline]:
    """k-means, and UMAP (10 neighbours, 3 dimensions) followed by k-means, with as many clusters as were asked for.

    Features are compared by cosine, pixels and UMAP coordinates by Euclidean distance. If a method fails, its baseline
    holds the reason instead of figures. Long computations are announced by a warning.

    Args:
        truth: of the n rows; only rows that take part in the clustering are clustered.
        features: what was clustered or, if the clusters come from a head, the output of the backbone.
        clustering: the clusters to compare with.
        seed: of UMAP and the sample; k-means uses ``seed + 1``, to differ from the k-means of ``clustering``.
        n_clusters: k; None: the number of centres of ``clustering``.
        of: what ``features`` are.
        pixels: of the images, if available.
    """
    clustered = truth.clustered.cpu()
    n = int(clustered.sum())
    rows = slice(None) if n == len(clustered) else clustered.nonzero()[:, 0]
    sample = subsample(n, MAX_ROWS, torch.Generator().manual_seed(seed))
    sample = sample if isinstance(rows, slice) else rows[sample]
    labels, clusters, k = truth.targets.cpu(), clustering.labels.cpu(), n_clusters or len(clustering.centers)

    def baseline(
        of: PlainSource, index: Int64[Tensor, "m"] | slice, points: Float[Tensor, "m e"], *, umap: bool
    ) -> Baseline:
        method: PlainMethod = "UMAP + k-means" if umap else "k-means"
        sampled = len(points) if len(points) < n else None
        try:
            found = _clusters(points, k, "euclidean" if of == "pixels" else "cosine", seed, umap=umap)
        except UserError as error:
            return Baseline(method, of, sampled, {}, None, str(error))
        agreement = adjusted_rand(found, clusters[index])
        return Baseline(method, of, sampled, clustering_scores(labels[index], found), agreement, None)

    _announce(len(sample))
    plain = [baseline(of, rows, features[rows], umap=False)]
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
    except Exception as error:  # any failure inside UMAP's dependencies; the other baselines are still of use
        raise UserError(f"UMAP of {len(points)} rows failed, {error}") from error


def _small(pixels: UInt8[Tensor, "n 3 h w"], rows: Int64[Tensor, "m"]) -> Float[Tensor, "m p"]:
    """Pixels of some images in [0, 1], a row per image; read in parts, since ``pixels`` may be a memory map."""
    h, w = pixels.shape[2:]
    size = min(h, MAX_SIDE), min(w, MAX_SIDE)
    parts = [F.interpolate(pixels[part].float(), size=size, mode="area") for part in torch.split(rows, 256)]
    return torch.cat(parts).flatten(1) / 255


def _announce(n: int) -> None:
    if n > QUICK_ROWS or "umap" not in sys.modules:
        how_long = "a few minutes" if n > QUICK_ROWS else "a minute"
        _LOG.warning("comparing with k-means and UMAP on %d images, which can take %s", n, how_long)
