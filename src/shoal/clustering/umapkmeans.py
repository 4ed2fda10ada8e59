"""k-means among the islands of a UMAP embedding, with scikit-learn's face."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shoal.clustering.inputs import Array, ArrayOrTensor, generator_from, like, precision_of
from shoal.clustering.kmeans import check_n_clusters, kmeans
from shoal.clustering.manifold import MAX_ROWS, drawn_rows, umap_embedding
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.rows import Metric
from shoal.clustering.shares import SharesEstimator

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
        drawn = drawn_rows(len(features), MAX_ROWS, generator).to(features.device)
        check_n_clusters(self.n_clusters, len(drawn))
        rows = features.detach()[drawn].float()
        seed = int(torch.randint(2**31, (), generator=generator))
        embedded = umap_embedding(rows, metric=self.metric, seed=seed)
        found = kmeans(embedded, self.n_clusters, generator=generator, metric="euclidean").labels
        self.rows_: Array | Tensor = like(X, rows)
        self.row_labels_: Array | Tensor = like(X, found)
        if len(drawn) == len(features):
            self.labels_: Array | Tensor = like(X, found)
        else:
            labels = self._shares(features).argmax(1)
            labels[drawn] = found
            self.labels_ = like(X, labels)
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
