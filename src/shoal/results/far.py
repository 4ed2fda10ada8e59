"""New images that are far from every cluster, by the distances of those that were clustered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from shoal.clustering.grouping import groups_of
from shoal.clustering.rows import Metric, Rows

SHARE = 0.01
"""Share of the clustered images that are far."""

SURE = 0.01
"""Far images are reported if as many are less probable than this among new images like the old."""

FEWEST = 3
"""Far images that are near each other suggest a cluster of their own."""

_MOST = 2000
"""Far images among which groups are looked for."""


@dataclass(frozen=True)
class Reference:
    """Distances of images to the centre of their cluster when they were clustered.

    A cluster may be looser than another, so distances are taken over ``typical``, the median of the cluster. ``far``
    is the 99th percentile of all ``n`` of those ratios. ``squares``: distances are like squares, as 1 − cos is.
    """

    typical: Sequence[float]
    far: float
    n: int
    squares: bool

    @classmethod
    def of(cls, labels: Int64[Tensor, "n"], distance: Float[Tensor, "n"], n_clusters: int, metric: Metric) -> Reference:
        """The reference of a clustering, whose images may be in no cluster (−1).

        A centre is the mean of its cluster, so each of its m images has drawn it nearer. From the mean of the others an
        image is m / (m − 1) times as far, and this is what the distance of a new image compares with. An image
        alone in its cluster says nothing.
        """
        squares = metric == "cosine"
        sizes = torch.bincount(labels[labels >= 0], minlength=n_clusters).double()
        told = (labels >= 0) & (sizes[labels] > 1)
        own, m = labels[told], sizes[labels[told]]
        apart = distance[told].double() * (m / (m - 1)) ** (2 if squares else 1)
        overall = float(apart.median()) if len(apart) else 0.0
        medians = [0.0] * n_clusters
        for each, rows in groups_of(own, n_clusters):
            medians[each] = float(apart[rows].median())
        typical = [each or overall or 1.0 for each in medians]
        ratios = apart / torch.tensor(typical, dtype=torch.float64)[own]
        far = float(ratios.kthvalue(_place(len(ratios))).values) if len(ratios) else math.inf
        return cls(typical, far, len(ratios), squares)

    @property
    def share(self) -> float:
        """Share of new images like the old ones that are far: where there are few old ones, more than 1 %."""
        return (self.n - _place(self.n) + 1) / (self.n + 1)

    def is_unusual(self, n_far: int, n_new: int) -> bool:
        """Whether this many far images are more than chance would have among new ones that are like the old.

        If all are drawn alike, how many new ones are beyond the r-th of n old ones is beta-binomial with n − r + 1 and
        r (Wilks 1942), which knows that the percentile itself is an estimate.
        """
        from scipy.stats import betabinom

        place = _place(self.n)
        return bool(n_far and betabinom.sf(n_far - 1, n_new, self.n - place + 1, place) < SURE)

    def are_far(self, labels: Int64[Tensor, "m"], distance: Float[Tensor, "m"]) -> Bool[Tensor, "m"]:
        """Mark new images that are farther from the centre of their cluster than 99 % of the old ones."""
        return distance.double() > self.far * torch.tensor(self.typical, dtype=torch.float64)[labels]

    def n_groups(self, features: Float[Tensor, "m d"], labels: Int64[Tensor, "m"], metric: Metric) -> int:
        """How many groups of at least three the far images are in.

        Two images of a cluster differ by two deviations from its centre, so that the square of their distance is
        twice that of one. Within this of an image are those of its group; the largest group is taken away first.
        """
        rows = Rows(features[:_MOST], metric)
        x = (rows[:] - rows[:].mean(0)).float()
        distances = rows.distance(torch.cdist(x, x).square())
        radius = self.far * torch.tensor(self.typical, dtype=torch.float64)[labels[:_MOST]]
        near = distances.double() <= (radius * (2 if self.squares else 2**0.5))[:, None]
        left, n = torch.ones(len(x), dtype=torch.bool), 0
        while left.any():
            members = near & left
            at = int((members.sum(1) * left).argmax())
            if int(members[at].sum()) < FEWEST:
                break
            left &= ~members[at]
            n += 1
        return n


def _place(n: int) -> int:
    """Which of n ascending values is the percentile."""
    return math.ceil((1 - SHARE) * n)
