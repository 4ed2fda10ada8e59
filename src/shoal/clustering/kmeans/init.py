"""Seeds of k-means: greedy k-means++ (Arthur and Vassilvitskii 2007), k-means‖ and random rows, and their sample."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.rows import Rows, Shards, squared_distances

VALUES = 2**24
"""Distances held at a time, which limits how many restarts are seeded together."""


def seeds(rows: Rows, n_clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Centres for several restarts at once, each a row of the data.

    Each step draws 2 + ln k candidates, as in scikit-learn, with probability proportional to the squared distance from
    the centres so far, and keeps the one that leaves the smallest sum of squared distances.
    """
    tries = 2 + int(math.log(n_clusters))
    each = max(1, VALUES // (len(rows) * tries))
    sizes = [min(each, restarts - done) for done in range(0, restarts, each)]
    return torch.cat([_seeds(rows, n_clusters, size, tries, generator) for size in sizes])


def random_seeds(rows: Rows, n_clusters: int, restarts: int, generator: torch.Generator) -> Float[Tensor, "r k d"]:
    """Centres for several restarts: rows drawn by their weights, none twice unless there are too few."""
    weights = rows.each_weight.double().to(generator.device)
    if n_clusters > len(rows):
        drawn = [weights.multinomial(n_clusters, replacement=True, generator=generator) for _ in range(restarts)]
    else:  # as torch.multinomial draws without replacement, which stops at 2**24 rows
        waits = (torch.empty_like(weights).exponential_(generator=generator) for _ in range(restarts))
        drawn = [(weights / wait).topk(n_clusters).indices for wait in waits]
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
    """Indices of rows drawn in proportion to shares, by inverse transform sampling."""
    edges = shares.T.cumsum(1, dtype=torch.float64)
    draws = torch.rand(len(edges), tries, dtype=torch.float64, generator=generator, device=generator.device)
    index = torch.searchsorted(edges, draws.to(edges.device) * edges[:, -1:], right=True)
    return index.clamp(max=len(shares) - 1)


def _with_candidates(
    rows: Rows, nearest: Float[Tensor, "n r"], candidates: Float[Tensor, "r t d"]
) -> Float[Tensor, "n r t"]:
    """Squared distance of each row to its nearest centre if a candidate became a centre."""
    restarts, tries, _ = candidates.shape
    options = nearest.new_empty(len(rows), restarts, tries)
    points = candidates.flatten(0, 1)
    for part, x in rows.chunks(restarts * tries):
        squared = squared_distances(x, points).add_(rows.squared_lengths[part]).clamp_(min=0)
        torch.minimum(nearest[part][..., None], squared.view(-1, restarts, tries), out=options[part])
    return options


LEAST_ROWS = 8192
ROWS_PER_CLUSTER = 16
OVERSAMPLING = 2.0
"""Candidates per round of k-means‖, as a multiple of k."""
ROUNDS = 5


def coreset(rows: Rows, n_clusters: int, generator: torch.Generator, shards: Shards) -> tuple[Rows, bool]:
    """Weighted rows on which k-means has about the same inertia as on all rows, and whether they are all rows.

    A lightweight coreset (Bachem, Lucic and Krause 2018): half the draws are uniform, half in proportion to the squared
    distance from the mean, so that no far outlier is missed, and weights correct for it. Every rank gets the same rows.
    If there are at most twice as many rows they are all kept, distinct and sorted, so that neither the order of the
    data nor repeating a row instead of weighting it makes a difference.
    """
    size = max(LEAST_ROWS, ROWS_PER_CLUSTER * n_clusters)
    n, weights = shards.total(len(rows)), rows.weights
    if n <= 2 * size:
        distinct, number = torch.unique(shards.gather(rows[:]), dim=0, return_inverse=True)
        counts = distinct.new_zeros(len(distinct)).index_add_(0, number, shards.gather(rows.each_weight))
        return _rows_like(rows, distinct[counts > 0], counts[counts > 0]), True
    squares = _from_mean(rows, shards)
    weight, far = float(n), squares.sum(dtype=torch.float64)
    if weights is not None:
        weight, far = float(shards.sum(weights.sum(dtype=torch.float64))), (squares * weights).sum(dtype=torch.float64)
    far = shards.sum(far).clamp(min=1e-300)
    chance = squares.to(torch.float64, copy=True).div_(2 * far).add_(1 / (2 * weight))
    index = _drawn(chance if weights is None else chance.mul_(weights), size, generator, shards)
    sampled = 1 / (size * (squares[index].double() / (2 * far) + 1 / (2 * weight)))  # a row's own weight cancels
    return _rows_like(rows, shards.gather(rows[index]), shards.gather(sampled.to(rows.dtype))), False


def _from_mean(rows: Rows, shards: Shards) -> Float[Tensor, "n"]:
    """Squared distance of each row from the mean, which under the cosine is not the origin."""
    if rows.metric == "euclidean":
        return rows.squared_lengths[:, 0]
    mean, _ = rows.moments(shards)
    squares = mean.new_empty(len(rows))
    for part, x in rows.chunks(1):
        squares[part] = torch.linalg.vector_norm(x - mean, dim=1).square()
    return squares


def candidates(rows: Rows, n_clusters: int, generator: torch.Generator, shards: Shards) -> Rows:
    """Candidates of k-means‖ for centres, each with the weight of the rows nearest to it.

    Bahmani et al. 2012: in each of five rounds every row becomes a candidate with probability 2k · d²/Σd², where d is
    its distance from the candidates so far.
    """
    weights = rows.each_weight
    chosen = shards.gather(rows[_drawn(weights.to(torch.float64, copy=True), 1, generator, shards)])
    nearest = torch.full_like(weights, torch.inf)
    owner = torch.zeros(len(rows), dtype=torch.int64, device=nearest.device)
    _closer(rows, chosen, 0, nearest, owner)
    for _ in range(ROUNDS):
        cost = (nearest * weights).double()
        chance = OVERSAMPLING * n_clusters * cost / shards.sum(cost.sum()).clamp(min=1e-300)
        drawn = (_uniform(len(rows), generator, shards).to(chance.device) < chance).nonzero()[:, 0]
        new = shards.gather(rows[drawn])
        if len(new):
            _closer(rows, new, len(chosen), nearest, owner)
            chosen = torch.cat([chosen, new])
    if len(chosen) < n_clusters:  # too few distinct rows
        return coreset(rows, n_clusters, generator, shards)[0]
    counts = shards.sum(weights.new_zeros(len(chosen)).index_add_(0, owner, weights))
    return _rows_like(rows, chosen, counts)


def _rows_like(rows: Rows, x: Float[Tensor, "m d"], weights: Float[Tensor, "m"] | None) -> Rows:
    """Rows that are already in the coordinates of others."""
    return Rows(x, rows.metric, dtype=rows.dtype, weights=weights, unit=rows.metric == "cosine")


def _drawn(share: Float64[Tensor, "n"], size: int, generator: torch.Generator, shards: Shards) -> Int64[Tensor, "m"]:
    """This rank's rows among ``size`` draws with replacement in proportion to shares, which are overwritten."""
    edges = share.cumsum_(0)
    mine = edges[-1] if len(edges) else edges.sum()
    total, start = shards.sum(mine), shards.before(mine)
    draws = torch.rand(size, dtype=torch.float64, generator=generator, device=generator.device).to(share.device)
    draws = draws.sort().values * total - start
    draws = draws[(draws >= 0) & (draws < mine)]
    return torch.searchsorted(edges, draws, right=True).clamp(max=max(len(edges) - 1, 0))


def _uniform(n: int, generator: torch.Generator, shards: Shards) -> Float[Tensor, "n"]:
    """A random number for each row, the same however the rows are sharded."""
    start, total = int(shards.before(torch.tensor(n))), shards.total(n)
    return torch.rand(total, generator=generator, device=generator.device)[start : start + n]


def _closer(
    rows: Rows,
    new: Float[Tensor, "m d"],
    first: int,
    nearest: Float[Tensor, "n"],
    owner: Int64[Tensor, "n"],
) -> None:
    """Assign rows to new candidates, numbered from ``first``, that are nearer than their present one."""
    for part, x in rows.chunks(len(new)):
        squared, labels = squared_distances(x, new).min(1)
        squared = squared.add_(rows.squared_lengths[part, 0]).clamp_(min=0)
        closer = squared < nearest[part]
        nearest[part][closer] = squared[closer]
        owner[part][closer] = labels[closer] + first
