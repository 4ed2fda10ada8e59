"""Which images a page shows: all of them, or the telling ones and a sample."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shoal.types import Clustering

MAX_SHOWN = 20_000

EACH_END = 20
"""Images of either end of a cluster, the central and the doubtful, that are shown whatever the sample."""


def sample_of_page(clustering: Clustering, certainty: Float[Tensor, "n"], seed: int) -> Bool[Tensor, "n"]:
    """Mark the images to show: all, or ``MAX_SHOWN``: both ends of each cluster, then clustered ones at random.

    Args:
        clustering: of all n images; a label of −1 is no cluster.
        certainty: the less, the more doubtful.
        seed: of the draw.
    """
    labels, k = clustering.labels, len(clustering.centers)
    if len(labels) <= MAX_SHOWN:
        return torch.ones(len(labels), dtype=torch.bool)
    rank = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    rank[labels < 0] += 1
    each_end = max(1, min(EACH_END, MAX_SHOWN // (2 * max(1, k))))
    by_cluster = torch.argsort(labels, stable=True)
    for own in torch.split(by_cluster, torch.bincount(labels + 1, minlength=k + 1).tolist())[1:]:
        for order in (clustering.distances[own], certainty[own]):
            rank[own[order.argsort(stable=True)[:each_end]]] = -1
    shown = torch.zeros(len(labels), dtype=torch.bool)
    shown[rank.argsort()[:MAX_SHOWN]] = True
    return shown
