"""Signals of a clustering that need no labels, and the warning of a collapsed training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from shoal.clustering import calinski_harabasz, davies_bouldin, silhouette
from shoal.clustering.contingency import Contingency
from shoal.clustering.grouping import group_sizes
from shoal.clustering.parameters import precision_of
from shoal.clustering.rows import Rows
from shoal.errors import UserError
from shoal.evaluation.metrics import clustering_scores, matched_share
from shoal.types import Clustering, Images

WATCHED = ("acc", "nmi", "ari", "fmi")
"""Scores that a run logs; an evaluation has all."""

SILHOUETTE_ROWS = 2000
"""Sample size for the silhouette, whose cost is quadratic; the standard error is about 0.005."""

COLLAPSED_STD = 0.02
"""The mean cosine of two images is 1 − std²: below this value it exceeds 0.9996, and images cannot be told apart.
Untrained networks, whose features are also similar, were measured at 0.05 (ResNet-18) to 0.16 (three stages)."""

COLLAPSED_SHARE = 0.95
"""If one cluster holds more than this, the others are too small to be meaningful. Clustering could not find real
classes of such imbalance anyway."""

UNSETTLED_SHARE = 0.5
"""If more images than this are in another cluster at the end than at the E-step before, training has not converged.
Fine runs on the digits were measured at 0.04 to 0.2, runs of far too high a rate at 0.7."""

REMEDIES = (
    "try a lower learning rate, a longer warm-up or larger batches; where the method has them, also a "
    "momentum closer to 1 or a smaller weight of the prototype loss"
)


def score(
    images: Images,
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    previous: Int64[Tensor, "n"] | None,
    seed: int,
) -> dict[str, int | float]:
    """Scores against the true classes, if there are any, and signals that need none.

    ``clusters`` is the number of clusters that have images: fewer than k where fewer than k images differ, or where a
    method's own head leaves some empty. ``previous`` are the clusters at the last E-step. The random sample has its own
    generator, so that scoring does not change the run.
    """
    scores = clustering_scores(images.targets, clustering.labels)
    signals = clustering_signals(features, clustering, seed, previous)
    clusters = {"clusters": len(torch.unique(clustering.labels[clustering.labels >= 0]))}
    return {key: scores[key] for key in WATCHED if scores} | clusters | signals


def clustering_signals(
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    seed: int,
    previous: Int64[Tensor, "n"] | None = None,
) -> dict[str, float]:
    """Signals of a clustering that need no labels.

    - ``silhouette``: mean silhouette (Rousseeuw 1987) by cosine distance of up to 2 000 clustered rows, in [-1, 1];
      0 where it is undefined, for example with a single cluster.
    - ``smallest``, ``largest``: share of the clustered rows in the smallest and in the largest cluster; the smallest is
      0 where a cluster is empty.
    - ``changed``: share of the rows whose cluster changed since the last E-step, after matching the clusters of both
      one-to-one, since their numbering is arbitrary. Absent without ``previous``.
    - ``feature_std``: standard deviation of the normalised features, averaged over dimensions, times √d: about 1
      if they are spread over the sphere, 0 if all are the same (SimSiam, arXiv 2011.10566, section 4.1).

    Args:
        features: what was clustered.
        clustering: label -1 leaves a row out.
        seed: of the sample of rows of the silhouette.
        previous: clusters of the same rows at the last E-step, if there was one.

    Raises:
        UserError: a feature is NaN or infinite.
    """
    generator = torch.Generator(features.device).manual_seed(seed)
    clustered = clustering.labels >= 0
    feature_std = _feature_std(features, clustered)
    if not math.isfinite(feature_std):
        raise UserError(
            "the features contain NaN or infinity: training has diverged, restart it with a lower learning rate."
        )
    sizes = group_sizes(clustering.labels, len(clustering.centers))
    shares = sizes / max(int(sizes.sum()), 1)
    signals = {
        "silhouette": _silhouette(features, clustering.labels, generator),
        "smallest": float(shares.min()),
        "largest": float(shares.max()),
        "feature_std": feature_std,
    }
    if previous is not None and bool((clustered & (previous >= 0)).any()):
        signals["changed"] = 1 - matched_share(Contingency.of(clustering.labels, previous))
    return signals


def dispersion_signals(features: Float[Tensor, "n d"], clustering: Clustering) -> dict[str, float]:
    """``davies_bouldin`` and ``calinski_harabasz`` of the clustered rows by cosine.

    They are absent where they are undefined, for example with a single cluster. Arguments as for
    ``clustering_signals``, which checks them.
    """
    scores = {
        "davies_bouldin": davies_bouldin(features, clustering.labels, metric="cosine"),
        "calinski_harabasz": calinski_harabasz(features, clustering.labels, metric="cosine"),
    }
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def collapse_warning(signals: Mapping[str, float]) -> str | None:
    """What is wrong and what to try if training has collapsed; None if it has not."""
    std, largest = signals["feature_std"], signals["largest"]
    if std < COLLAPSED_STD:
        return f"the features of all images are nearly the same (feature_std {std:.3f}; 1 is spread out): {REMEDIES}."
    # A single cluster, at once smallest and largest, is not a collapse.
    if largest > COLLAPSED_SHARE and signals["smallest"] < largest:
        return f"one cluster holds {largest:.0%} of the images: {REMEDIES}."
    return None


def unsettled_warning(signals: Mapping[str, float]) -> str | None:
    """What to try if the last clusters are hardly those of the E-step before; None if they are, or there was none."""
    changed = signals.get("changed", 0.0)
    if changed <= UNSETTLED_SHARE:
        return None
    return (
        f"the clusters have not settled: {changed:.0%} of the images are in another one than at the E-step before; "
        "try a lower learning rate, or more epochs."
    )


def _silhouette(features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], generator: torch.Generator) -> float:
    score = silhouette(features, labels, metric="cosine", generator=generator, n_rows=SILHOUETTE_ROWS)
    return 0.0 if math.isnan(score) else score


def _feature_std(features: Float[Tensor, "n d"], clustered: Bool[Tensor, "n"]) -> float:
    """Of some rows, which are read a part at a time; NaN if a value of theirs is NaN or infinite."""
    sums = torch.zeros(2, features.shape[1], dtype=torch.float64, device=features.device)
    n = 0
    for part in Rows(features, "euclidean").parts(1):
        rows = features[part][clustered[part]]
        directions = F.normalize(rows.to(precision_of(rows)), dim=1).double()
        sums += torch.stack([directions.sum(0), directions.square().sum(0)])
        n += len(rows)
    mean, square = sums / max(n, 1)
    return float((square - mean.square()).clamp(min=0).sqrt().mean() * math.sqrt(features.shape[1]))
