"""What clusters and classes say of each other: mutual information, over entropies and beyond chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import xlogy

from shoal.clustering.contingency import Contingency

TAIL = 32
"""Counts less likely than about exp(−32) = 1e-14 are left out of an expectation."""


def information_scores(table: Contingency) -> dict[str, float]:
    """NMI, AMI, homogeneity, completeness and V-measure, with scikit-learn's values at their limits.

    Args:
        table: of one row or more.
    """
    n = int(table.counts.sum())
    of_cluster, of_class = table.sizes()
    expected = of_cluster[table.clusters] / n * of_class[table.classes]
    mutual = max(0.0, float((table.counts / n * np.log(table.counts / expected)).sum()))
    h_cluster, h_class = _entropy(of_cluster), _entropy(of_class)
    # Where there is no entropy there is nothing to tell.
    homogeneity = mutual / h_class if h_class else 1.0
    completeness = mutual / h_cluster if h_cluster else 1.0
    both = homogeneity + completeness
    mean_entropy = (h_cluster + h_class) / 2
    return {
        "nmi": mutual / mean_entropy if mean_entropy else 1.0,
        "ami": _adjusted(mutual, mean_entropy, of_cluster, of_class),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v_measure": 2 * homogeneity * completeness / both if both else 0.0,
    }


def _entropy(sizes: Int64[np.ndarray, "k"]) -> float:
    p = sizes / sizes.sum()
    return abs(float((p * np.log(p)).sum()))


def _adjusted(
    mutual: float, mean_entropy: float, of_cluster: Int64[np.ndarray, "k"], of_class: Int64[np.ndarray, "c"]
) -> float:
    """(MI − E) / (H̄ − E), where E is what clusters and classes of these sizes share by chance."""
    if len(of_cluster) == len(of_class) == 1:
        return 1.0
    if len(of_cluster) == 1 or len(of_class) == 1:
        return 0.0
    chance = expected_information(of_cluster, of_class)
    # Chance may do as well as the best, as where each row is a class of its own; rounding then must not decide.
    over_chance, at_best = (_away_from_zero(value - chance) for value in (mutual, mean_entropy))
    return over_chance / at_best


def _away_from_zero(value: float) -> float:
    least = float(np.finfo(np.float64).eps)
    return min(value, -least) if value < 0 else max(value, least)


def expected_information(of_cluster: Int64[np.ndarray, "k"], of_class: Int64[np.ndarray, "c"]) -> float:
    """Mutual information in nats that a random assignment to clusters and classes of these sizes has on average.

    E = Σ_ab E[m log(m/μ)] / n, where the rows m that a cluster of a rows shares with a class of b are hypergeometric
    with mean μ = ab/n (Vinh, Epps and Bailey, JMLR 11, 2010, equation 24a). Equal sizes are computed once, and only the
    counts about the mean that have a probability: time does not grow with n but with √n for each pair of sizes.

    Args:
        of_cluster: rows of each cluster.
        of_class: rows of each class, of the same total.
    """
    n = int(of_cluster.sum())
    sides = sorted((np.unique(sizes, return_counts=True) for sizes in (of_cluster, of_class)), key=lambda x: len(x[0]))
    (few, few_times), (many, many_times) = sides
    total = 0.0
    for a, times in zip(few.tolist(), few_times.tolist(), strict=True):
        width = 2 * _reach(a, many, n) + 1
        # Sizes are ascending, and so is the width.
        for part in _parts(width):
            total += times * float((many_times[part] * _shared(a, many[part], n, int(width[part][-1] // 2))).sum())
    return total / n


def _parts(width: Int64[np.ndarray, "s"]) -> list[slice]:
    """Runs of sizes that make no more than about a million numbers together, or are one."""
    parts, start = [], 0
    while start < len(width):
        fits = np.flatnonzero(width[start:] * np.arange(1, len(width) - start + 1) <= 2**20)
        stop = start + max(1, len(fits))
        parts.append(slice(start, stop))
        start = stop
    return parts


def _reach(a: int, b: Int64[np.ndarray, "s"], n: int) -> Int64[np.ndarray, "s"]:
    """How far from its mean a count is found with a probability worth the sum (Bernstein's inequality)."""
    variance = a / n * (1 - a / n) * b * (n - b) / max(n - 1, 1)
    reach: Int64[np.ndarray, "s"] = np.ceil(TAIL / 3 + np.sqrt(TAIL**2 / 9 + 2 * TAIL * variance)).astype(np.int64)
    return reach + 1


def _shared(a: int, b: Int64[np.ndarray, "s"], n: int, reach: int) -> Float64[np.ndarray, "s"]:
    """E[m log(m/μ)] of the hypergeometric m for each b, from probabilities relative to the mode's."""
    b = b[:, None].astype(np.float64)
    outside = n - a - b  # rows of neither
    # Rounding must not leave the range.
    mode = np.floor((a + 1) * (b + 1) / (n + 2)).clip(np.maximum(-outside, 0), np.minimum(a, b))
    steps = np.arange(min(reach, a) + 1)
    up, down = mode + steps, mode - steps
    # p(m + 1) / p(m) and p(m − 1) / p(m): at the ends of the range these are 0, and stay so beyond.
    rises = (a - up) * (b - up) / ((up + 1) * (outside + up + 1))
    falls = down * (outside + down) / ((a - down + 1) * (b - down + 1))
    weight = total = np.zeros(len(b))
    for m, ratio in ((up, rises), (down, falls)):
        p = np.cumprod(ratio, axis=1)
        m = np.maximum(m[:, 1:], 0)
        weight = weight + p[:, :-1].sum(1)
        total = total + (p[:, :-1] * xlogy(m, m * (n / (a * b)))).sum(1)
    at_mode = xlogy(mode, mode * (n / (a * b)))[:, 0]
    expectation: Float64[np.ndarray, "s"] = (total + at_mode) / (weight + 1)
    return expectation
