"""All scores of one clustering: the only reading of true labels in a training run."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.evaluation.metrics import clustering_scores
from shoal.evaluation.unsupervised import clustering_signals
from shoal.types import Clustering, Images

WATCHED = ("acc", "nmi", "ari", "fmi")
"""What a run logs of the scores; an evaluation has them all."""


def score(
    images: Images,
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    previous: Int64[Tensor, "n"] | None,
    seed: int,
) -> dict[str, float]:
    """Scores against the labels where there are any, and signals that need none.

    ``previous`` are the pseudo-labels of the last E-step. Random numbers (which rows the silhouette samples) are the
    evaluation's own, so that watching a run does not change it.
    """
    generator = torch.Generator(features.device).manual_seed(seed)
    scores = clustering_scores(images.labels, clustering.labels)
    signals = clustering_signals(features, clustering, previous, generator)
    return {key: scores[key] for key in WATCHED if scores} | signals
