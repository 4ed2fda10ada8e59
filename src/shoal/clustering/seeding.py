"""Where k-means starts: greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates a step)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.rows import Rows, squared_distances


def candidates_per_step(n_clusters: int) -> int:
    """How many candidates compete for each centre: 2 + ln k, as scikit-learn tries."""
    return 2 + int(math.log(n_clusters))


def seed(rows: Rows, n_clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Centres for several restarts at once, each a row of the data.

    A centre is drawn with probability proportional to the squared distance from the centres so far; of the
    candidates drawn, the one that leaves the smallest sum of squared distances is taken.
    """
    n, device, tries = len(rows), rows.features.device, candidates_per_step(n_clusters)
    first = torch.randint(n, (restarts,), generator=generator, device=generator.device).to(device)
    centers = rows[first][:, None].repeat(1, n_clusters, 1)
    nearest = torch.full((n, restarts), torch.inf, dtype=rows.dtype, device=device)
    nearest = _with_candidates(rows, nearest, centers[:, :1])[..., 0]
    for j in range(1, n_clusters):
        candidates = rows[_draw(nearest, tries, generator)]
        options = _with_candidates(rows, nearest, candidates)
        best = options.sum(0).argmin(-1)
        centers[:, j] = candidates[torch.arange(restarts, device=device), best]
        nearest = options.gather(2, best.expand(n, -1)[..., None])[..., 0]
    return centers


def _draw(nearest: Float[Tensor, "n r"], tries: int, generator: torch.Generator) -> Int64[Tensor, "r t"]:
    """Row numbers drawn in proportion to the squared distances, by inverse transform sampling."""
    edges = nearest.T.cumsum(1, dtype=torch.float64)
    draws = torch.rand(len(edges), tries, dtype=torch.float64, generator=generator, device=generator.device)
    index = torch.searchsorted(edges, draws.to(edges.device) * edges[:, -1:], right=True)
    return index.clamp(max=len(nearest) - 1)


def _with_candidates(
    rows: Rows, nearest: Float[Tensor, "n r"], candidates: Float[Tensor, "r t d"]
) -> Float[Tensor, "n r t"]:
    """Squared distance of each row to its nearest centre, were a candidate among the centres."""
    restarts, tries, _ = candidates.shape
    options = nearest.new_empty(len(rows), restarts, tries)
    points = candidates.flatten(0, 1)
    for part, x in rows.chunks(restarts * tries):
        squared = squared_distances(x, points).add_(rows.squared_lengths[part]).clamp_(min=0)
        torch.minimum(nearest[part][..., None], squared.view(-1, restarts, tries), out=options[part])
    return options
