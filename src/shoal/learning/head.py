"""The linear head that learns from labels spread over the graph and from the answers themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from shoal.clustering.linear import discriminant

ANSWER_WEIGHT = 10.0
"""Rows whose labels are guessed that an answered one counts as."""

STEPS = 2
"""Fits: to the labels that were spread, then to the probabilities that follow from these."""

NEVER = -1e9
"""The logit of a class that was ruled out."""


@dataclass(frozen=True, eq=False)
class Given:
    """What the head is fitted to: m rows of coordinates, of which some are answered."""

    z: Float32[Tensor, "m c"]
    scatter: Float32[Tensor, "c c"]
    """Σ_i w_i z_i z_iᵀ over the rows that have a class."""
    weights: Float32[Tensor, "m"]
    """How often each row counts; 0 for one that belongs nowhere."""
    answered: Int64[Tensor, "a"]
    classes: Int64[Tensor, "a"]
    """Of the answered rows."""
    n_classes: int
    ruled_out: Int64[Tensor, "r 2"]
    """Rows and the classes that they are not in."""

    @classmethod
    def of(
        cls,
        z: Float32[Tensor, "m c"],
        belongs: Bool[Tensor, "m"],
        answered: Int64[Tensor, "a"],
        classes: Int64[Tensor, "a"],
        n_classes: int,
        ruled_out: Int64[Tensor, "r 2"],
    ) -> Given:
        """Put it together; ``belongs`` are the rows that are in any class."""
        weights = belongs.float()
        weights[answered] = ANSWER_WEIGHT
        scatter = (z * weights[:, None]).T @ z
        return cls(z, scatter, weights, answered, classes, n_classes, ruled_out)


def fit_head(given: Given, shares: Float32[Tensor, "m k"]) -> tuple[Float32[Tensor, "k c"], Float32[Tensor, "k"]]:
    """Weights and biases of a linear discriminant, by two steps of expectation–maximisation from spread labels.

    The classes are Gaussians of one covariance, as in ``LinearHead``. Answered rows keep their classes and count ten
    times, and no row is given to a class that was ruled out for it.

    Args:
        given: rows and answers.
        shares: probability of each class for each row at first; of rows without weight any.
    """
    weight, bias = _fit(given, shares)
    for _ in range(STEPS - 1):
        logits = torch.addmm(bias, given.z, weight.T)
        logits[given.ruled_out[:, 0], given.ruled_out[:, 1]] = NEVER
        weight, bias = _fit(given, logits.softmax(1))
    return weight, bias


def _fit(given: Given, shares: Float32[Tensor, "m k"]) -> tuple[Float32[Tensor, "k c"], Float32[Tensor, "k"]]:
    shares = shares * given.weights[:, None]
    shares[given.answered] = 0
    shares[given.answered, given.classes] = ANSWER_WEIGHT
    return discriminant(given.scatter, shares.T @ given.z, shares.sum(0))
