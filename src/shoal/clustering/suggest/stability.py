"""Whether k-means finds the same clusters in two halves of the rows: it sees groups that touch, if they are round."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.contingency import adjusted_rand
from shoal.clustering.kmeans.restarts import assign, kmeans

STEP = 1.2
N_INIT = 3
ALIKE = 0.002
"""Difference of agreements that means nothing."""


class Halves:
    """Stability of each number of clusters, measured when asked for (Lange, Roth, Braun and Buhmann 2004)."""

    def __init__(self, points: Float[Tensor, "n d"], seed: int) -> None:
        self.points, self.seed = points, seed
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        self.halves = order[: len(points) // 2], order[len(points) // 2 :]
        self.stability: dict[int, float] = {}
        """Adjusted Rand index of the clusters that the centres of the one half and of the other make of all rows."""

    def sweep(self, low: int, high: int) -> None:
        """Measure numbers that grow by a fifth, ``low`` to ``high``, then halve the gaps beside the most stable."""
        k = low
        while k <= high:
            self._measure(k)
            k = max(k + 1, round(k * STEP))
        while (beside := self._beside(self.best(low), high)) - set(self.stability):
            for k in beside:
                self._measure(k)

    def best(self, low: int) -> int:
        """The most stable number from ``low`` on, of several alike the largest; ``low`` if none is measured."""
        known = {k: value for k, value in self.stability.items() if k >= low}
        return max((k for k, value in known.items() if value >= max(known.values()) - ALIKE), default=low)

    def _beside(self, best: int, high: int) -> set[int]:
        """Half-way from the best to the numbers on either side that are measured."""
        smaller = max((k for k in self.stability if k < best), default=best)
        larger = min((k for k in self.stability if k > best), default=high)
        return {-(-(smaller + best) // 2), (best + larger) // 2} if self.stability else set()

    def _measure(self, k: int) -> None:
        if k not in self.stability:
            self.stability[k] = adjusted_rand(*(self._clusters(half, k) for half in self.halves))

    def _clusters(self, half: Int64[Tensor, "h"], k: int) -> Int64[Tensor, "n"]:
        generator = torch.Generator().manual_seed(self.seed + k)
        found = kmeans(self.points[half], k, generator=generator, metric="euclidean", n_init=N_INIT)
        return assign(self.points, found.centers, "euclidean")[0]
