"""Probabilities of any clustering, so that they say how often it is right: a temperature and a monotone curve.

Methods mean different things by a probability. Posteriors of a Gaussian mixture in a thousand dimensions are all 1;
those of k-means depend on how wide the clusters are taken to be; votes are shares of ten. What they have in common is
their order: the larger, the more often right. So the order is kept, and the values are fitted to how often rows that
are alike are found in the same cluster (``agreement``), which needs no labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from shoal.clustering.agreement import neighbour_agreement
from shoal.clustering.parameters import precision_of, put_ahead
from shoal.clustering.rows import Metric
from shoal.clustering.temi.estimator import TEMI
from shoal.clustering.temperature import temperature_of

BINS = 15
"""Groups of equally many rows, from the least to the most probable, whose mean agreement the curve goes through."""

BEYOND = 0.01
"""Slope of the curve before its first and after its last knot, and of the least probability above 1/k: nearly flat, but
still rising, so that order is kept."""

APART = 0.01
"""Knots are further apart: votes of ten are often unanimous, and the log odds then differ by rounding alone."""

LEAST = 1e-300
"""Probabilities below it count as this, so that their logarithm is finite."""


@runtime_checkable
class Posterior(Protocol):
    """A fitted clusterer."""

    def predict_proba(self, X: Any, /) -> Any:
        """(n, d) to (n, k)."""

    def as_module(self) -> nn.Module:
        """The same as a network."""


@dataclass(frozen=True)
class Calibration:
    """P(right) = σ(curve(log odds at the temperature)), of the most probable cluster."""

    temperature: float
    """By which log probabilities are divided."""
    odds: Sequence[float]
    """Knots of the curve: log odds of the most probable cluster after that, ascending."""
    right: Sequence[float]
    """Log odds of being right at the knots, ascending."""

    def __post_init__(self) -> None:
        numbers = (self.temperature, *self.odds, *self.right)
        rises = all(a < b for each in (self.odds, self.right) for a, b in itertools.pairwise(each))
        if not (all(map(math.isfinite, numbers)) and self.temperature > 0 and rises) or not (
            len(self.odds) == len(self.right) > 0
        ):
            raise ValueError("the calibration is not a rising curve of finite numbers")


class CalibratedPosterior(nn.Module):
    """Log probabilities of k clusters to calibrated probabilities, of which the largest stays the largest.

    The most probable cluster gets σ(curve(its log odds)), and a little more than 1/k at least. Where that is more than
    the temperature alone has given it, the others shrink by one factor; where it is less, all are mixed with 1/k, so
    that no other cluster overtakes it. A row whose log probabilities are all −∞ is in no cluster and stays so. All is
    computed in float64.
    """

    odds: Tensor
    right: Tensor

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.temperature = calibration.temperature
        self.register_buffer("odds", torch.tensor(calibration.odds, dtype=torch.float64))
        self.register_buffer("right", torch.tensor(calibration.right, dtype=torch.float64))

    def forward(self, log_probabilities: Float64[Tensor, "b k"]) -> Float64[Tensor, "b k"]:
        """Calibrated probabilities."""
        k = log_probabilities.shape[1]
        somewhere = log_probabilities.amax(1, keepdim=True) > -torch.inf
        if k == 1:
            return somewhere.to(log_probabilities.dtype)
        shares = (torch.where(somewhere, log_probabilities, 0.0) / self.temperature).softmax(1)
        top, own = shares.max(1, keepdim=True)
        others = shares.scatter(1, own, 0.0).sum(1, keepdim=True)
        odds = top.log() - others.clamp(min=LEAST).log()
        least = 1 / k + BEYOND * (top - 1 / k)
        wanted = torch.maximum(self.curve(odds).sigmoid(), least)
        raised = (shares * (1 - wanted) / others.clamp(min=LEAST)).scatter(1, own, wanted)
        lowered = 1 / k + (shares - 1 / k) * (wanted - 1 / k) / (top - 1 / k).clamp(min=LEAST)
        return torch.where(wanted >= top, raised, lowered) * somewhere.to(log_probabilities.dtype)

    def curve(self, odds: Float64[Tensor, "b 1"]) -> Float64[Tensor, "b 1"]:
        """The line through the knots."""
        first, last = self.odds[0], self.odds[-1]
        found = self.right[0] + BEYOND * (odds.clamp(max=first) - first + odds.clamp(min=last) - last)
        if len(self.odds) == 1:
            return found
        slopes = self.right.diff() / self.odds.diff()
        within = torch.minimum(torch.maximum(odds, self.odds[:-1]), self.odds[1:]) - self.odds[:-1]
        return found + (within * slopes).sum(1, keepdim=True)


class Calibrated:
    """A fitted clusterer with calibrated probabilities; its clusters are the same."""

    def __init__(self, clusterer: Posterior, calibration: Calibration) -> None:
        self.clusterer = clusterer
        self.posterior = CalibratedPosterior(calibration)

    def predict_proba(self, X: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each cluster, in the precision of the features, but at least float32."""
        logs = log_probabilities(self.clusterer, X)
        own = logs.argmax(1, keepdim=True)
        with torch.no_grad():
            shares: Tensor = self.posterior(logs).to(precision_of(X))
        return put_ahead(shares, own)  # where rounding has made another one as large

    def as_module(self) -> nn.Module:
        """The same as a network."""
        return _Network(self.clusterer.as_module(), self.posterior)


class _Network(nn.Module):
    """Features to calibrated probabilities."""

    def __init__(self, clusterer: nn.Module, posterior: CalibratedPosterior) -> None:
        super().__init__()
        self.clusterer = clusterer
        self.posterior = posterior

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        # Probabilities are rounded to 0 and 1, those of a mixture in many dimensions even in float64.
        scores = getattr(self.clusterer, "log_scores", None)
        logs = scores(features) if scores else _logs(self.clusterer(features))
        calibrated: Tensor = self.posterior(logs.double()).to(precision_of(features))
        return calibrated


def log_probabilities(clusterer: Posterior, X: Float[Tensor, "n d"]) -> Float64[Tensor, "n k"]:
    """Log probability of each cluster but for a constant per row, by ``log_scores`` of the clusterer or its network.

    Of one that has none, the logarithm of its probabilities, most of which may be rounded to 0 and 1. All are −∞ for a
    row that belongs nowhere.
    """
    holder = clusterer if hasattr(clusterer, "log_scores") else clusterer.as_module()
    if (scores := getattr(holder, "log_scores", None)) is not None:
        with torch.no_grad():
            return torch.as_tensor(scores(X.double()))
    return _logs(torch.as_tensor(clusterer.predict_proba(X.double())))


def _logs(shares: Float[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
    """Finite logarithms, but −∞ for a row that is in no cluster: all of its probabilities are 0."""
    nowhere = shares.amax(1, keepdim=True) <= 0
    return torch.where(nowhere, -torch.inf, shares.double().clamp(min=LEAST).log())


def fit_calibration(
    clusterer: Posterior, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], metric: Metric, seed: int
) -> Calibration | None:
    """Fit probabilities to how often other clusterings put images that are alike into the same cluster.

    First the temperature (Guo et al. 2017, 1706.04599) at which the mean probability of the rows' own clusters is the
    mean agreement. Then a monotone curve through the agreement of 15 groups of equally many rows, ordered by
    probability; groups out of order are pooled (isotonic regression, Zadrozny and Elkan 2002).

    Args:
        clusterer: fitted, without empty clusters.
        features: that were clustered, also a memory map.
        labels: cluster of each row, −1 for none.
        metric: decides which rows are alike.
        seed: of the samples.

    Returns:
        What to calibrate its probabilities with; None where there is too little to measure, see
        ``neighbour_agreement``, and for TEMI: its probabilities are as sure as neighbours agree, and the clusterings
        that are asked here are so much worse that they would take it for wrong.

    Raises:
        UserError: as ``neighbour_agreement``.
    """
    found = None if isinstance(clusterer, TEMI) else neighbour_agreement(features, labels, metric, seed)
    if found is None:
        return None
    rows, agreement = found
    rows = rows.to(features.device)
    logs, own = log_probabilities(clusterer, features[rows].detach()).cpu(), labels[rows][:, None].cpu()
    inside = logs.isfinite().any(1)  # of rows in a cluster all, but for rounding
    rows, agreement, logs, own = rows.cpu()[inside], agreement[inside], logs[inside], own[inside]
    if not len(rows):
        return None
    temperature = temperature_of(logs, own, _smoothed(float(agreement.sum()), len(rows)))
    shares = (logs / temperature).softmax(1)
    others = shares.scatter(1, own, 0.0).sum(1).clamp(min=LEAST)
    odds = shares.gather(1, own)[:, 0].clamp(min=LEAST).log() - others.log()
    return Calibration(temperature, *_curve(odds, agreement))


def _curve(odds: Float64[Tensor, "m"], agreement: Float64[Tensor, "m"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots and log odds of being right there, each pool of groups a knot at its mean."""
    order = odds.argsort(stable=True)
    pools: list[tuple[int, float, float]] = []  # rows, sum of odds, sum of agreements
    for group in order.tensor_split(min(BINS, len(order))):
        pools.append((len(group), float(odds[group].sum()), float(agreement[group].sum())))
        while len(pools) > 1 and not _rises(*pools[-2:]):
            pools[-2:] = [tuple(map(sum, zip(*pools[-2:], strict=True)))]  # type: ignore[list-item]
    knots = tuple(total / n for n, total, _ in pools)
    shares = (_smoothed(right, n) for n, _, right in pools)
    return knots, tuple(math.log(share / (1 - share)) for share in shares)


def _rises(before: tuple[int, float, float], after: tuple[int, float, float]) -> bool:
    """Whether both means are larger in the second of two pools: the odds visibly, the agreement once smoothed."""
    (n, odds, right), (m, later, correct) = before, after
    return later / m - odds / n > APART and _smoothed(right, n) < _smoothed(correct, m)


def _smoothed(right: float, n: int) -> float:
    """A share of n rows by Laplace's rule, by which none is certain."""
    return (right + 1) / (n + 2)
