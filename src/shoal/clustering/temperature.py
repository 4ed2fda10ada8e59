"""The temperature of a softmax that is as sure as it should be (Guo et al. 2017, 1706.04599)."""

from __future__ import annotations

import math

from jaxtyping import Float, Int64
from torch import Tensor

COLDEST, HOTTEST = 1e-6, 1e9
STEPS = 50
"""Bisections between them: what is left of the interval is 3e-14 of the temperature."""


def temperature_of(logits: Float[Tensor, "n k"], own: Int64[Tensor, "n 1"], mean: float) -> float:
    """The divisor of logits at which the mean probability of the rows' own clusters is ``mean``.

    It is found by bisection of its logarithm. There is one wherever each row's own cluster is its likeliest.
    """
    cold, hot = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(STEPS):
        middle = (cold + hot) / 2
        if float((logits / math.exp(middle)).softmax(1).gather(1, own).mean()) > mean:
            cold = middle
        else:
            hot = middle
    return math.exp((cold + hot) / 2)
