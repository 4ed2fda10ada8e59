"""UMAP of features, and k-means in its few dimensions."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor, nn

from shoal.clustering.inputs import ArrayOrTensor, SharesEstimator, as_input_type, warn_if_fewer
from shoal.clustering.kmeans.restarts import kmeans
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.parameters import Array, check_choice, check_n_clusters, generator_from, hinting, precision_of
from shoal.clustering.rows import (
    Metric,
    coincide,
    distinct_rows,
    power_of_two,
    subsample,
    too_far,
    too_near,
    unit_length,
    vanishes,
)
from shoal.device import hold_threads
from shoal.errors import UserError
from shoal.progress import counted

N_NEIGHBORS = 10
N_COMPONENTS = 3

MAX_ROWS = 10_000
"""Rows that are embedded, drawn if there are more: UMAP of this many takes a minute on one core."""

MIN_ROWS = 3


def umap_embedding(
    features: Float[Tensor, "n d"],
    *,
    metric: Metric,
    seed: int,
    n_components: int = N_COMPONENTS,
    n_neighbors: int = N_NEIGHBORS,
) -> Float[Tensor, "n e"]:
    """UMAP (McInnes, Healy and Melville 2018) of features: 10 neighbours, 3 dimensions, no minimum distance.

    The same seed gives the same embedding. It is computed on the CPU and returned in float32 on the features' device.
    Equal rows are embedded as one: their copies would fill the neighbours of each, and part into clusters of their own.

    Args:
        features: finite, on any device; rows must not be zero for the cosine.
        metric: decides which rows are neighbours.
        seed: for the optimisation, 0 or more.
        n_components: dimensions e of the embedding.
        n_neighbors: rows that count as near to each, itself included; fewer where there are no more rows.

    Raises:
        UserError: fewer than 3 rows, or rows whose squared distances overflow or vanish in float32.
    """
    n = len(features)
    if n < MIN_ROWS:
        raise UserError(f"UMAP has no graph of {counted(n, 'row')} (n_samples={n}): give at least {MIN_ROWS}.")
    first, inverse = distinct_rows(features)
    if len(first) < MIN_ROWS:
        return inverse.float()[:, None].repeat(1, n_components)
    if len(first) < n:
        settings = {"n_components": n_components, "n_neighbors": n_neighbors}
        return umap_embedding(features[first], metric=metric, seed=seed, **settings)[inverse]
    n_neighbors = min(n_neighbors, n - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing optional packages, and graphs in pieces, as clusters are
        with hold_threads():
            from umap import UMAP  # takes seconds to compile itself when imported
        model = UMAP(
            n_neighbors=n_neighbors,
            n_components=n_components,
            min_dist=0.0,
            metric=metric,
            # Few points have too few eigenvectors for a spectral start.
            init="spectral" if n > 2 * N_NEIGHBORS else "random",
            precomputed_knn=(*nearest_rows(features, n_neighbors, metric), None),
            random_state=seed % 2**32,  # the range of NumPy's seeds
            n_jobs=1,  # with more the result is not reproducible
        )
        points = _in_float32(features.detach().to(precision_of(features)), metric)
        with hold_threads():
            embedded = model.fit_transform(points.cpu().numpy())
    return torch.from_numpy(embedded).to(features.device)


def _in_float32(features: Float[Tensor, "n d"], metric: Metric) -> Float[Tensor, "n d"]:
    """Rows whose differences float32 can hold: about their mean, or for the cosine in a unit in which they are small.

    Raises:
        UserError: the squares of the differences overflow or vanish.
    """
    if metric == "cosine":
        return (features / power_of_two(features)).float()
    centred = features - features.mean(0)
    if vanishes(float(centred.abs().max()), torch.float32):
        raise too_near(torch.float32)
    if not torch.isfinite(centred := centred.float()).all():
        raise too_far(centred)
    return centred


def nearest_rows(
    features: Float[Tensor, "n d"], k: int, metric: Metric
) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Indices and distances of the k nearest rows of each row, nearest first, beginning with the row itself.

    UMAP's own search calls a function for each pair of a few thousand rows and compiles an approximation for more. For
    up to ten thousand rows this exact search is faster than either.
    """
    numbers, distances = nearest_neighbours(features.detach(), k - 1, metric)
    own = torch.arange(len(features), device=features.device)[:, None]
    numbers = torch.cat([own, numbers], 1)
    distances = torch.cat([torch.zeros_like(distances[:, :1]), distances], 1)
    return numbers.int().cpu().numpy(), distances.float().cpu().numpy()


VOTERS = 10
"""As many as each row has neighbours in the graph of the embedding."""

OWN_VOTE = 0.51
"""Share of the votes that a fitted row has in its own cluster."""

SAME = 1e-6
"""A row is taken for the fitted row at no larger share of the voters' mean distance."""


class Votes(nn.Module):
    """Votes of the ten nearest of some rows, each with weight 1 / (distance + mean distance of the ten).

    ``UMAPKMeans`` finds the nearest with exact distances and gives a fitted row 0.51 of its own votes. ``forward``, for
    other programs, does neither: whether a row finds itself to the last digit depends on their arithmetic.
    """

    rows: Tensor
    labels: Tensor
    mean: Tensor

    def __init__(self, rows: Float[Tensor, "m d"], labels: Int64[Tensor, "m"], n_clusters: int, metric: Metric) -> None:
        super().__init__()
        self.cosine, self.n_clusters = metric == "cosine", n_clusters
        rows = rows.to(precision_of(rows))
        points = unit_length(rows) if self.cosine else rows
        self.register_buffer("mean", points.mean(0))
        self.register_buffer("rows", (points - self.mean).float())
        self.register_buffer("labels", labels)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        nearest, distances = self.search(features)
        return self.count(nearest, vote_weights(distances))

    def search(self, features: Float[Tensor, "b d"]) -> tuple[Int64[Tensor, "b v"], Float[Tensor, "b v"]]:
        """The nearest rows and their distances, by products in float32."""
        x = ((unit_length(features) if self.cosine else features) - self.mean).float()
        squared = x.square().sum(1, keepdim=True) - 2 * x @ self.rows.T + self.rows.square().sum(1)
        least, nearest = squared.clamp(min=0).topk(min(VOTERS, len(self.rows)), largest=False)
        return nearest, least / 2 if self.cosine else least.sqrt()

    def log_scores(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Log of each cluster's share, were there one more voter who cannot decide: no cluster is ruled out by ten."""
        return log_shares(self(features))

    def count(self, nearest: Int64[Tensor, "b v"], votes: Float[Tensor, "b v"]) -> Float[Tensor, "b k"]:
        """Sum of the votes for each cluster."""
        shares = votes.new_zeros(votes.shape[0], self.n_clusters)  # len() would fix the batch of an exported network
        return shares.scatter_add(1, self.labels[nearest], votes)


def log_shares(shares: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Log of shares of the votes, with one more vote that is shared by all clusters; up to a constant, float64.

    Of a row without any vote, which belongs nowhere, all are −∞.
    """
    logs = (shares.double() + 1 / (VOTERS * max(shares.shape[1], 1))).log()
    return logs.where((shares > 0).any(1, keepdim=True), -torch.inf)


def vote_weights(distances: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """The weight of each voter, 1 / (distance + mean distance), divided by their sum."""
    relative = distances / distances.mean(1, keepdim=True).clamp(min=torch.finfo(distances.dtype).tiny)
    weights = 1 / (1 + relative)
    return weights / weights.sum(1, keepdim=True)


def _with_own_vote(votes: Float[Tensor, "b v"], distances: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """Votes of which a row that finds itself, at distance 0, has 0.51."""
    own = distances <= SAME * distances.mean(1, keepdim=True)
    of_own = (votes * own).sum(1, keepdim=True)
    both = own.any(1, keepdim=True) & ~own.all(1, keepdim=True)
    scaled = torch.where(own, OWN_VOTE * votes / of_own, (1 - OWN_VOTE) * votes / (1 - of_own))
    return torch.where(both, scaled, votes)


def exact_votes(
    module: Votes, rows: Float[Tensor, "m d"], metric: Metric, features: Float[Tensor, "n d"]
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n"]]:
    """Sums of the votes by exact distances, with a fitted row's own vote, and the distance of the farthest voter."""
    rows = rows.to(features.device)
    nearest, distances = nearest_neighbours(rows, min(VOTERS, len(rows)), metric, features.detach())
    votes = _with_own_vote(vote_weights(distances), distances)
    return module.to(features.device).count(nearest, votes.to(precision_of(features))), distances[:, -1]


class UMAPKMeans(SharesEstimator):
    """UMAP (10 neighbours, 3 dimensions) and k-means in it, for arrays and tensors, with scikit-learn's interface.

    It finds groups of any shape, such as curved ones that k-means would cut. Up to 10 000 rows are embedded, a random
    sample if there are more. All other rows, and new ones, get the cluster for which their 10 nearest embedded rows
    vote, in the features' space, each with weight 1 / (distance + mean distance of the ten).

    A fitted row is one of its ten nearest and has 0.51 of the votes, so ``predict`` returns ``labels_`` again (except
    for equal rows that k-means put into different clusters), and ``predict_proba`` shows how many neighbours agree.

    Given a tensor, it returns tensors on its device, though UMAP itself works on the CPU; given anything else that
    scikit-learn accepts as an array, it returns numpy arrays.

    Args:
        n_clusters: k.
        metric: decides which rows are neighbours.
        random_state: an int makes the result reproducible; None draws new seeds each time.

    Attributes:
        labels_: int64 (n,), the cluster of each row.
        rows_: float (m, d), the rows that were embedded.
        row_labels_: int64 (m,), their clusters.
        n_features_in_: d.
    """

    @hinting
    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.random_state = random_state

    def fit(self, X: ArrayOrTensor, y: object = None) -> UMAPKMeans:
        """Find the clusters of rows (n, d); ``y`` is ignored.

        Raises:
            UserError: fewer than three rows or fewer than clusters, NaN, infinity, a zero row under the cosine, rows
                whose squared distances overflow or vanish in float32; an unknown metric.
        """
        features = self._features(X, reset=True)
        generator = generator_from(self.random_state)
        drawn = subsample(len(features), MAX_ROWS, generator).to(features.device)
        check_n_clusters(len(drawn), n_clusters=self.n_clusters)
        check_choice(self.metric, Metric, "metric")
        rows = features.detach()[drawn].to(precision_of(features))
        seed = int(torch.randint(2**31, (), generator=generator))
        embedded = umap_embedding(rows, metric=self.metric, seed=seed)
        if coincide(rows, self.metric):  # UMAP scatters them
            found = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        else:
            found = kmeans(embedded, self.n_clusters, generator=generator, metric="euclidean").labels
        self.rows_: Array | Tensor = as_input_type(X, rows)
        self.row_labels_: Array | Tensor = as_input_type(X, found)
        if len(drawn) == len(features):
            self.labels_: Array | Tensor = as_input_type(X, found)
        else:
            labels = self._likeliest(features)
            labels[drawn] = found
            self.labels_ = as_input_type(X, labels)
        warn_if_fewer(len(torch.unique(found)), self.n_clusters)
        return self

    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return exact_votes(self.as_module(), torch.as_tensor(self.rows_), self.metric, features)[0]

    def log_scores(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Log of each cluster's share of eleven votes, one of which is shared by all clusters; float64 (n, k)."""
        return as_input_type(X, log_shares(self._shares(self._features(X))))

    def as_module(self) -> Votes:
        """The probabilities as a network."""
        rows, labels = torch.as_tensor(self.rows_).cpu(), torch.as_tensor(self.row_labels_).cpu()
        return Votes(rows, labels, self.n_clusters, self.metric)
