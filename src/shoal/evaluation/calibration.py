"""Whether the confidence of an assignment predicts how often it is correct."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from shoal.clustering.calibration import Calibrated, Posterior, fit_calibration
from shoal.clustering.kmeans.estimator import KMeans
from shoal.clustering.occupied import renumbered
from shoal.evaluation.result import CalibrationResult, ConfidenceBin
from shoal.types import Clustering

BINS = 15


def kmeans_confidence(features: Float[Tensor, "n d"], clustering: Clustering, seed: int) -> Float[Tensor, "n"]:
    """Confidence of cosine k-means, calibrated as that of a result; 0 for rows in no cluster.

    Args:
        features: that were clustered, finite.
        clustering: k-means of the features, or an assignment to its centres.
        seed: of the calibration.
    """
    labels, occupied = renumbered(clustering.labels.to(features.device))
    if not len(occupied):
        return features.new_zeros(len(features))
    clusterer: Posterior = KMeans.from_centers(clustering.centers.to(features.device)[occupied], features, "cosine")
    if (calibration := fit_calibration(clusterer, features.cpu(), labels.cpu(), "cosine", seed)) is not None:
        clusterer = Calibrated(clusterer, calibration)
    shares = torch.as_tensor(clusterer.predict_proba(features.cpu()))
    own: Tensor = shares.gather(1, labels.cpu().clamp(min=0)[:, None])[:, 0]
    return own.where(labels.cpu() >= 0, 0.0)


def calibration(confidence: Float[Tensor, "n"], right: Bool[Tensor, "n"]) -> CalibrationResult:
    """Expected calibration error and reliability diagram with 15 bins of equal width (Guo et al. 2017, 1706.04599).

    ECE = Σ_b n_b/n · |accuracy_b − confidence_b|. A bin holds low < confidence ≤ high; empty bins are left out. The
    adaptive error is the same over 15 groups of equally many images, from the least to the most confident.

    Args:
        confidence: in [0, 1]; at least one image.
        right: whether the image is in the class that its cluster is matched to.
    """
    sure, hit = confidence.double(), right.double()
    index = (sure * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    sizes, sums, hits = (torch.bincount(index, w, minlength=BINS) for w in (torch.ones_like(sure), sure, hit))
    bins = [
        ConfidenceBin(b / BINS, (b + 1) / BINS, int(n), total / n, correct / n)
        for b, (n, total, correct) in enumerate(zip(sizes.tolist(), sums.tolist(), hits.tolist(), strict=True))
        if n
    ]
    error = sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / len(sure)
    return CalibrationResult(error, float(sure.mean()), float(hit.mean()), bins, _adaptive_error(sure, hit))


def _adaptive_error(sure: Float64[Tensor, "n"], hit: Float64[Tensor, "n"]) -> float:
    """Images of one confidence count as that share of them that is correct, so that their order does not matter."""
    _, which, times = torch.unique(sure, return_inverse=True, return_counts=True)
    fair = torch.zeros(len(times), dtype=torch.float64).index_add_(0, which, hit) / times
    order = sure.argsort()
    gaps = (fair[which] - sure)[order].tensor_split(min(BINS, len(sure)))
    return sum(abs(float(each.sum())) for each in gaps) / len(sure)
