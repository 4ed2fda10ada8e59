"""Parts that a cluster could be split into."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering import KMeans
from shoal.clustering.rows import Metric, subsample
from shoal.errors import UserError

N_CENTRAL = 12
MOST_PARTS = 20
MOST_FITTED = 20_000
"""Images of a cluster that its parts, or those that stand for it, are found among."""


def parts_of(
    features: Float[Tensor, "n d"], rows: Int64[Tensor, "m"], n: int, metric: Metric, seed: int
) -> list[dict[str, Any]]:
    """The n clusters that k-means finds among some rows, the largest first, each with its most central rows.

    Raises:
        UserError: there are too few rows for this many parts, or more parts are asked for than a page shows.
    """
    if not 2 <= n <= min(MOST_PARTS, len(rows)):
        raise UserError(f"a cluster of {len(rows)} images can be split into 2 to {min(MOST_PARTS, len(rows))} parts.")
    drawn = rows[subsample(len(rows), MOST_FITTED, torch.Generator().manual_seed(0))]
    model = KMeans(n, metric=metric, random_state=seed, n_init=3).fit(features[drawn].float())
    labels = torch.as_tensor(model.predict(features[rows].float()))
    distances = torch.as_tensor(model.transform(features[rows].float()))
    parts = []
    for part in range(n):
        members = (labels == part).nonzero()[:, 0]
        order = members[distances[members, part].argsort(stable=True)]
        if len(order):
            parts.append({"rows": rows[order].tolist(), "central": rows[order[:N_CENTRAL]].tolist()})
    return sorted(parts, key=lambda each: -len(each["rows"]))
