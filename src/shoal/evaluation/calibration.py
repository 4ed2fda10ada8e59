"""Whether the confidence of an assignment predicts how often it is correct."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from shoal.clustering.parameters import precision_of
from shoal.evaluation.result import Calibration, ConfidenceBin

TEMPERATURE = 0.1
"""T of the confidence: with a cosine 0.1 larger to one centre than to another, an image is e times as likely there."""

BINS = 10


def confidences(features: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]) -> Float[Tensor, "n"]:
    """Soft assignment to the nearest centre: max_c softmax_c(cos(x, μ_c)/T), in (1/k, 1]; 1 for a single centre."""
    directions = F.normalize(centers.to(precision_of(features)))
    parts = torch.split(features, max(1, 2**22 // len(centers)))
    each = [(F.normalize(x.to(directions.dtype)) @ directions.T / TEMPERATURE).softmax(1).amax(1) for x in parts]
    return torch.cat(each) if each else features.new_empty(0)


def calibration(confidence: Float[Tensor, "n"], right: Bool[Tensor, "n"]) -> Calibration:
    """Expected calibration error and reliability diagram with ten bins of equal width (Guo et al. 2017, 1706.04599).

    ECE = Σ_b n_b/n · |accuracy_b − confidence_b|. A bin holds low < confidence ≤ high; empty bins are left out.

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
    return Calibration(TEMPERATURE, error, float(sure.mean()), float(hit.mean()), bins)
