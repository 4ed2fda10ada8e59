"""Whether k-means finds the same clusters in two halves of the rows: it sees groups that touch, if they are round."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.contingency import adjusted_rand
from shoal.clustering.kmeans.restarts import assign, kmeans

STEP = 1.2
N_INIT = 3


class Halves:
    """Stability of each number of clusters, measured when asked for (Lange, Roth, Braun and Buhmann 2004)."""

    def __init__(self, points: Float[Tensor, "n d"], seed: int) -> None:
        self.points, self.seed = points, seed
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
        self.halves = order[: len(points) // 2], order[len(points) // 2 :]
        self.stability: dict[int, float] = {}
        """Adjusted Rand index of the clusters that the centres of the one half and of the other make of all rows."""

    def sweep(self, low: int, high: int) -> None:
        """Measure numbers that grow by a fifth from ``low`` to ``high``, then all beside the most stable."""
        k = low
        while k <= high:
            self._measure([k])
            k = max(k + 1, round(k * STEP))
        if self.stability:
            best = max(self.stability, key=lambda each: (self.stability[each], each))
            width = max(1, round(best * (STEP - 1)))
            self._measure(range(max(low, best - width + 1), min(high, best + width - 1) + 1))

    def _measure(self, ks: Iterable[int]) -> None:
        for k in set(ks) - set(self.stability):
            self.stability[k] = adjusted_rand(*(self._clusters(half, k) for half in self.halves))

    def _clusters(self, half: Int64[Tensor, "h"], k: int) -> Int64[Tensor, "n"]:
        generator = torch.Generator().manual_seed(self.seed + k)
        found = kmeans(self.points[half], k, generator=generator, metric="euclidean", n_init=N_INIT)
        return assign(self.points, found.centers, "euclidean")[0]
