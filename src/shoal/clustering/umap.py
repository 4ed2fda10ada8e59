"""Features in the few dimensions of their neighbourhood graph, where k-means and the silhouette see its groups."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from shoal.clustering.inputs import Array, ArrayOrTensor, SharesEstimator, as_input_type, generator_from, precision_of
from shoal.clustering.kmeans.restarts import check_n_clusters, kmeans
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.rows import Metric
from shoal.errors import UserError

N_NEIGHBORS = 10
N_COMPONENTS = 3

MAX_ROWS = 10_000
"""UMAP of so many takes a minute on one core; of more, so many are drawn."""

MIN_ROWS = 3


def umap_embedding(
    features: Float[Tensor, "n d"],
    *,
    metric: Metric,
    seed: int,
    n_components: int = N_COMPONENTS,
    min_dist: float = 0.0,
) -> Float[Tensor, "n c"]:
    """UMAP (McInnes, Healy and Melville 2018) of features: 10 neighbours, 3 dimensions, points as dense as they get.

    The same seed gives the same embedding. It works on the CPU and answers in float32 on the features' device.

    Args:
        features: finite, on any device; rows must not be zero for the cosine.
        metric: by which rows are neighbours.
        seed: of the optimisation, 0 or more.
        n_components: dimensions of the embedding; fewer dimensions are easier to look at, 3 to cluster.
        min_dist: how far apart points are kept; 0 to cluster them, 0.1 to tell them apart in a picture.

    Raises:
        UserError: fewer than 3 rows.
    """
    n = len(features)
    if n < MIN_ROWS:
        raise UserError(f"UMAP has no graph of {n} rows (n_samples={n}): give {MIN_ROWS} at least.")
    n_neighbors = min(N_NEIGHBORS, n - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that are not installed, and of graphs in pieces, which clusters are
        from umap import UMAP  # compiles itself, for seconds, when imported

        model = UMAP(
            n_neighbors=n_neighbors,
            n_components=n_components,
            min_dist=min_dist,
            metric=metric,
            # The spectrum of a few points has too few eigenvectors.
            init="spectral" if n > 2 * N_NEIGHBORS else "random",
            precomputed_knn=(*nearest_rows(features, n_neighbors, metric), None),
            random_state=seed % 2**32,  # NumPy's seeds end there
            n_jobs=1,  # several would not repeat the result
        )
        embedded = model.fit_transform(features.detach().float().cpu().numpy())
    return torch.from_numpy(embedded).to(features.device)


def nearest_rows(
    features: Float[Tensor, "n d"], k: int, metric: Metric
) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k nearest rows of each row, itself the first of them, nearest first: their numbers and distances.

    UMAP would call a function for each pair of some thousand rows, and compile an approximation for more. These are
    exact, and take less time than either up to the ten thousand rows that they are used for.
    """
    numbers, distances = nearest_neighbours(features.detach(), k - 1, metric)
    own = torch.arange(len(features), device=features.device)[:, None]
    numbers = torch.cat([own, numbers], 1)
    distances = torch.cat([torch.zeros_like(distances[:, :1]), distances], 1)
    return numbers.int().cpu().numpy(), distances.cpu().numpy()


def subsample(n: int, most: int, generator: torch.Generator) -> Int64[Tensor, "m"]:
    """Numbers of at most so many of n rows, in their order; all of them, without a draw, if they are no more."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=generator)[:most].sort().values


VOTERS = 10
"""As many as there are neighbours in the graph of the embedding."""

OWN_VOTE = 0.51
"""Share of the votes of a fitted row that finds itself."""

SAME = 1e-6
"""A row is itself where its distance is no larger share of the mean distance of the rows that vote."""


class UMAPKMeans(SharesEstimator):
    """UMAP (10 neighbours, 3 dimensions) and k-means in it, for arrays and tensors, with scikit-learn's interface.

    It finds groups of any shape, such as curved ones, that k-means would cut. Up to 10 000 rows are embedded, a random
    sample if there are more. All other rows, and new ones, are put where their 10 nearest among those vote, in the
    features' space: each with weight 1 / (distance + mean distance of the ten).

    A fitted row finds itself among the ten and has 0.51 of the votes, so ``predict`` repeats ``labels_`` (but for equal
    rows that k-means put into different clusters), and ``predict_proba`` still says how many of its neighbours agree.

    Given a tensor, the answers are tensors on its device, UMAP itself works on the CPU; given anything else that
    scikit-learn takes for an array, they are numpy arrays.

    Args:
        n_clusters: k.
        metric: by which rows are neighbours.
        random_state: an int repeats the embedding and the clusters; None draws other ones each time.

    Attributes:
        labels_: int64 (n,), the cluster of each row.
        rows_: float32 (m, d), the rows that were embedded.
        row_labels_: int64 (m,), their clusters.
        n_features_in_: d.
    """

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
                whose squared distances overflow in float32; an unknown metric.
        """
        features = self._features(X, reset=True)
        generator = generator_from(self.random_state)
        drawn = subsample(len(features), MAX_ROWS, generator).to(features.device)
        check_n_clusters(self.n_clusters, len(drawn))
        rows = features.detach()[drawn].float()
        seed = int(torch.randint(2**31, (), generator=generator))
        embedded = umap_embedding(rows, metric=self.metric, seed=seed)
        found = kmeans(embedded, self.n_clusters, generator=generator, metric="euclidean").labels
        self.rows_: Array | Tensor = as_input_type(X, rows)
        self.row_labels_: Array | Tensor = as_input_type(X, found)
        if len(drawn) == len(features):
            self.labels_: Array | Tensor = as_input_type(X, found)
        else:
            labels = self._shares(features).argmax(1)
            labels[drawn] = found
            self.labels_ = as_input_type(X, labels)
        return self

    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Share of the votes."""
        rows = torch.as_tensor(self.rows_).to(features.device)
        labels = torch.as_tensor(self.row_labels_).to(features.device)
        voters = min(VOTERS, len(rows))
        near, distances = nearest_neighbours(rows, voters, self.metric, features.detach())
        votes = _votes(distances).to(precision_of(features))
        shares = votes.new_zeros(len(features), self.n_clusters)
        return shares.scatter_add_(1, labels[near], votes)


def _votes(distances: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
    """What each neighbour's vote counts; they sum to 1."""
    relative = distances / distances.mean(1, keepdim=True).clamp(min=torch.finfo(distances.dtype).tiny)
    weights = 1 / (1 + relative)
    own = relative <= SAME
    of_own, of_others = (weights * own).sum(1, keepdim=True), (weights * ~own).sum(1, keepdim=True)
    mixed = (of_own > 0) & (of_others > 0)
    apart = torch.where(own, OWN_VOTE / of_own, (1 - OWN_VOTE) / of_others)
    factors = torch.where(mixed, apart, 1 / (of_own + of_others))
    return weights * factors
