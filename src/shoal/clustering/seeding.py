"""Where k-means starts: greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates a step)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.rows import Rows, squared_distances

VALUES = 2**24
"""Distances that are held at once, for as many restarts as that is enough for."""


def seeds(rows: Rows, n_clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Centres for several restarts at once, each a row of the data.

    A centre is drawn with probability proportional to the squared distance from the centres so far; of the
    2 + ln k candidates drawn, as many as scikit-learn tries, the one that leaves the smallest sum of squared
    distances is taken.
    """
    tries = 2 + int(math.log(n_clusters))
    each = max(1, VALUES // (len(rows) * tries))
    sizes = [min(each, restarts - done) for done in range(0, restarts, each)]
    return torch.cat([_seeds(rows, n_clusters, size, tries, generator) for size in sizes])


def random_seeds(rows: Rows, n_clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Centres for several restarts: rows drawn by their weights, none twice unless there are too few."""
    weights = rows.each_weight.double().to(generator.device)
    again = n_clusters > len(rows)
    drawn = [weights.multinomial(n_clusters, again, generator=generator) for _ in range(restarts)]
    return rows[torch.stack(drawn).to(rows.features.device)]


def _seeds(
    rows: Rows, n_clusters: int, restarts: int, tries: int, generator: torch.Generator
) -> Float[Tensor, "r k d"]:
    device = rows.features.device
    weights = rows.each_weight[:, None]
    first = _draw(weights.expand(-1, restarts), 1, generator)[:, 0]
    centers = rows[first][:, None].repeat(1, n_clusters, 1)
    nearest = weights.new_full((len(rows), restarts), torch.inf)
    nearest = _with_candidates(rows, nearest, centers[:, :1])[..., 0]
    for j in range(1, n_clusters):
        tried = rows[_draw(nearest * weights, tries, generator)]
        options = _with_candidates(rows, nearest, tried)
        best = torch.einsum("nrt,n->rt", options, weights[:, 0]).argmin(-1)
        centers[:, j] = tried[torch.arange(restarts, device=device), best]
        nearest = options.gather(2, best.expand(len(rows), -1)[..., None])[..., 0]
    return centers


def _draw(shares: Float[Tensor, "n r"], tries: int, generator: torch.Generator) -> Int64[Tensor, "r t"]:
    """Row numbers drawn in proportion to shares, by inverse transform sampling."""
    edges = shares.T.cumsum(1, dtype=torch.float64)
    draws = torch.rand(len(edges), tries, dtype=torch.float64, generator=generator, device=generator.device)
    index = torch.searchsorted(edges, draws.to(edges.device) * edges[:, -1:], right=True)
    return index.clamp(max=len(shares) - 1)


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
