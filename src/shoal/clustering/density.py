"""Clusters of high density, however many there are, and rows that belong to none: UMAP, and HDBSCAN in it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.inputs import AT_ONCE, ArrayOrTensor, SharesEstimator, as_input_type
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.parameters import Array, check_choice, check_counts, generator_from, hinting, precision_of
from shoal.clustering.rows import Metric, Rows, coincide, distinct_rows, invalid_features_error, subsample
from shoal.clustering.suggest.suggest import suggest_k
from shoal.clustering.umap import (
    MAX_ROWS,
    MIN_ROWS,
    VOTERS,
    Votes,
    exact_votes,
    log_shares,
    umap_embedding,
    vote_weights,
)
from shoal.device import hold_threads
from shoal.errors import UserError
from shoal.mapped import release
from shoal.progress import counted

N_COMPONENTS = 5

N_NEIGHBORS = 15
"""UMAP's default."""

MIN_SAMPLES = 10
"""Rows within the distance that is taken for the density about a row, itself included."""

FEWEST = 5
"""Rows of the smallest cluster that there may be by default."""

PER_ROOT = 1.5
"""Rows of the smallest cluster for each unit of √n."""

COUNTED_FROM = 500
"""Rows from which the groups that ``suggest_k`` counts decide on the layer. Among fewer it misses too many."""

COUNTED = 4_000
"""Rows among which it counts them, drawn if there are more: the more rows, the more parts of groups stand out."""

SLACK = 1e-3
"""By which share an exported network, whose distances are rounded, may take a row for nearer than it is."""


def smallest_cluster(n: int) -> int:
    """Rows that a cluster among n rows needs by default: 1.5 √n, and five at least."""
    return max(FEWEST, round(PER_ROOT * math.sqrt(n)))


class DensityVotes(Votes):
    """``Votes`` of which noise has its own, and a limit to the distance: zeros for a row that belongs nowhere."""

    reach: Tensor

    def __init__(
        self,
        rows: Float[Tensor, "m d"],
        labels: Int64[Tensor, "m"],
        n_clusters: int,
        metric: Metric,
        reach: Float[Tensor, "k"],
    ) -> None:
        super().__init__(rows, labels.where(labels >= 0, n_clusters), n_clusters + 1, metric)
        self.register_buffer("reach", reach)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        nearest, distances = self.search(features)
        return self.decide(self.count(nearest, vote_weights(distances)), distances[:, -1] / (1 + SLACK))

    def decide(self, shares: Float[Tensor, "b c"], farthest: Float[Tensor, "b"]) -> Float[Tensor, "b k"]:
        """Shares of the clusters, and zeros where noise has most votes, or the voters are too far for the cluster."""
        own, noise = shares[:, :-1], shares[:, -1]
        most, place = own.max(1)
        inside = (most > noise) & (farthest <= self.reach.to(farthest)[place])
        return own * inside[:, None]


class UMAPHDBSCAN(SharesEstimator):
    """HDBSCAN in a UMAP embedding: as many clusters as are dense, and noise (−1), for arrays and tensors.

    UMAP (15 neighbours, 5 dimensions) of up to 10 000 rows, a random sample if there are more; equal rows count once.
    HDBSCAN (Campello, Moulavi and Sander 2013) makes a hierarchy of dense groups of at least ``min_cluster_size`` rows;
    its leaves are the clusters, and what lies between them is noise. It is run for that size, and for ever halved and
    doubled ones: where these give other numbers of clusters, they are layers among which ``with_clusters`` chooses,
    with no other UMAP. Of 500 rows or more the layer nearest to the number of groups that ``suggest_k`` counts is
    taken, unless a size is given.

    All other rows, and new ones, go where the votes of their 10 nearest embedded rows do, as in ``UMAPKMeans``. They
    belong nowhere (−1, all probabilities 0) if rows of noise have the most votes, or if their tenth neighbour is
    farther than that of any row of the cluster.

    Args:
        layer: the number of clusters of the layer to take; None takes the layer of ``min_cluster_size``, and where
            that is None as well and there are 500 rows, the layer nearest to the number of groups.
        min_cluster_size: rows that a cluster has at least; None begins with 1.5 √n, and five at least. Of a sample it
            counts the rows of that.
        metric: decides which rows are neighbours.
        random_state: an int makes the result reproducible; None draws new seeds each time.

    Attributes:
        labels_: int64 (n,), the cluster of each row, the largest first; −1 for noise.
        n_clusters_: k, 0 where no group is dense.
        min_cluster_size_: ``min_cluster_size``, or what None begins with.
        layers_: int64 (l, m), the cluster of each embedded row in each layer, that with most clusters first.
        rows_: float (m, d), the rows that were embedded, each once.
        row_labels_: int64 (m,), their clusters in the layer that was taken.
        cores_: float (m,), the distance of each to its tenth neighbour, in the features' space.
        n_features_in_: d.
    """

    @hinting
    def __init__(
        self,
        layer: int | None = None,
        *,
        min_cluster_size: int | None = None,
        metric: Metric = "cosine",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.layer = layer
        self.min_cluster_size = min_cluster_size
        self.metric = metric
        self.random_state = random_state

    def fit(self, X: ArrayOrTensor, y: object = None) -> UMAPHDBSCAN:
        """Find the clusters of rows (n, d); ``y`` is ignored.

        Raises:
            UserError: fewer than three rows, NaN, infinity, a zero row under the cosine, rows whose squared distances
                overflow or vanish in float32; an unknown metric; a number of clusters that no layer has.
        """
        features = self._features(X, reset=True)
        self._check(len(features))
        generator = generator_from(self.random_state)
        drawn = subsample(len(features), MAX_ROWS, generator).to(features.device)
        seed = int(torch.randint(2**31, (), generator=generator))
        rows = features.detach()[drawn].to(precision_of(features))
        first, inverse = distinct_rows(rows)
        rows = rows[first]
        size = smallest_cluster(len(rows)) if self.min_cluster_size is None else int(self.min_cluster_size)
        self.min_cluster_size_ = size
        layers, chosen = self._layers(rows, size, seed)
        self.layers_: Array | Tensor = as_input_type(X, layers)
        self.rows_: Array | Tensor = as_input_type(X, rows)
        self.cores_: Array | Tensor = as_input_type(X, _cores(rows, self.metric))
        self.take_layer(self._default(rows, layers, chosen, seed) if self.layer is None else self.layer)
        if len(drawn) == len(features):
            self.labels_: Array | Tensor = as_input_type(X, torch.as_tensor(self.row_labels_)[inverse])
        else:
            self.labels_ = as_input_type(X, self._labels(features))
        return self

    def _check(self, n: int) -> None:
        """Refuse wrong parameters, and too few rows."""
        check_choice(self.metric, Metric, "metric")
        if self.layer is not None:
            check_counts(layer=self.layer)
        size = self.min_cluster_size
        if size is not None and (not isinstance(size, Integral) or isinstance(size, bool) or size < 2):
            raise UserError(f"min_cluster_size={size!r} must be a whole number, at least 2.")
        if n < MIN_ROWS:
            raise UserError(f"UMAP has no graph of {counted(n, 'row')} (n_samples={n}): give at least {MIN_ROWS}.")

    def _layers(self, rows: Float[Tensor, "m d"], size: int, seed: int) -> tuple[Int64[Tensor, "l m"], int]:
        """The layers of rows that differ, most clusters first, and which of them has that smallest cluster."""
        n = len(rows)
        if not torch.isfinite(Rows(rows, self.metric)[:]).all():
            raise invalid_features_error(rows)
        if coincide(rows, self.metric):
            return torch.zeros(1, n, dtype=torch.int64, device=rows.device), 0
        if n < max(MIN_ROWS, 2 * size):  # two clusters are the fewest that HDBSCAN tells from the whole
            return torch.full((1, n), -1, device=rows.device), 0
        embedded = umap_embedding(
            rows, metric=self.metric, seed=seed, n_components=N_COMPONENTS, n_neighbors=N_NEIGHBORS
        )
        found = density_layers(embedded.double().cpu().numpy(), size)
        order = sorted(found, key=lambda each: -int(each[1].max()))
        chosen = [each for each, _ in order].index(size)
        return torch.from_numpy(np.stack([labels for _, labels in order])).to(rows.device), chosen

    def _default(self, rows: Float[Tensor, "m d"], layers: Int64[Tensor, "l m"], chosen: int, seed: int) -> int:
        """The number of clusters to take where none was asked for; ``chosen`` is the layer of the smallest cluster."""
        sizes = [1 + int(labels.max()) for labels in layers]
        own = sizes[chosen]
        if self.min_cluster_size is not None or len(rows) < COUNTED_FROM or own < 2:
            return own
        sample = subsample(len(rows), COUNTED, torch.Generator().manual_seed(seed)).to(rows.device)
        groups = suggest_k(rows[sample], metric=self.metric, seed=seed).k
        return min((k for k in sizes if k), key=lambda k: abs(math.log(k / groups)))

    def take_layer(self, n_clusters: int) -> None:
        """Let the layer with this many clusters be the one that counts; ``labels_`` stays.

        Raises:
            UserError: no layer has.
        """
        sizes = [1 + int(labels.max()) for labels in self.layers_]
        if n_clusters not in sizes:
            known = in_series(self.choices_)
            one = "that" if len(self.choices_) == 1 else "one of these"
            have = f"the density suggests {known}, so give {one}" if known else "no group is dense"
            raise UserError(f"there is no layer of {counted(n_clusters, 'cluster')}: {have}.")
        self.row_labels_: Array | Tensor = self.layers_[sizes.index(n_clusters)]
        self.n_clusters_ = n_clusters

    @property
    def choices_(self) -> list[int]:
        """The numbers of clusters of the layers, ascending."""
        return sorted(1 + int(labels.max()) for labels in self.layers_ if labels.max() >= 0)

    def with_clusters(self, n_clusters: int) -> UMAPHDBSCAN:
        """The same with the layer that has this many clusters; it has no ``labels_``.

        Raises:
            UserError: no layer has.
        """
        other = copy.copy(self)
        if hasattr(other, "labels_"):
            del other.labels_
        other.layer = n_clusters
        other.take_layer(n_clusters)
        return other

    def _labels(self, features: Float[Tensor, "n d"]) -> Int64[Tensor, "n"]:
        labels = torch.full((len(features),), -1, device=features.device)
        for start in range(0, len(features) if self.n_clusters_ else 0, AT_ONCE):
            most, likeliest = self._shares(features[start : start + AT_ONCE]).max(1)
            labels[start : start + AT_ONCE] = likeliest.where(most > 0, -1)
            release(features)
        return labels

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The cluster of each row, int64 (n,), −1 for one that belongs nowhere."""
        return as_input_type(X, self._labels(self._features(X)))

    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        module = self.as_module()
        shares, farthest = exact_votes(module, torch.as_tensor(self.rows_), self.metric, features)
        return module.decide(shares, farthest) if self.n_clusters_ else shares[:, :0]

    def log_scores(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Log of each cluster's share of the votes, as of ``UMAPKMeans``; −∞ for a row that belongs nowhere."""
        return as_input_type(X, log_shares(self._shares(self._features(X))))

    def as_module(self) -> DensityVotes:
        """The probabilities as a network."""
        rows, labels, cores = (torch.as_tensor(each).cpu() for each in (self.rows_, self.row_labels_, self.cores_))
        inside = labels >= 0
        reach = cores.new_zeros(self.n_clusters_).scatter_reduce(0, labels[inside], cores[inside], "amax")
        return DensityVotes(rows, labels, self.n_clusters_, self.metric, reach)


def density_layers(points: Float[np.ndarray, "m e"], size: int) -> list[tuple[int, Int64[np.ndarray, "m"]]]:
    """HDBSCAN with ever larger and smaller sizes of the smallest cluster.

    Sizes are ``size``, and ever its double and its half, from five (or ``size``, if that is less) to half of the rows.
    Of sizes with the same number of clusters that nearest to ``size`` stands for all; sizes with no cluster for none.

    Returns:
        Size, and the cluster of each point, numbered from the largest on, −1 for noise; for ``size`` always.
    """
    from sklearn.cluster import HDBSCAN  # slow to import

    found = {}
    doubled = [size << i for i in range(1, len(points).bit_length()) if size << i <= len(points) // 2]
    halved = [size >> i for i in range(1, size.bit_length()) if size >> i >= FEWEST]
    with hold_threads():
        for each in (size, *doubled, *halved):
            model = HDBSCAN(
                min_cluster_size=each,
                min_samples=min(MIN_SAMPLES, len(points)),
                # The other way, by excess of mass, takes half of an embedding for one cluster if that is stable.
                cluster_selection_method="leaf",
                copy=True,
            )
            labels = _by_size(model.fit(points).labels_)
            k = 1 + int(labels.max())
            if each == size or (k and k not in found):
                found[k] = each, labels
    return [*found.values()]


def _by_size(labels: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
    """Clusters numbered anew, the largest first; −1 stays."""
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    place = np.empty(len(sizes) + 1, dtype=np.int64)
    place[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    place[-1] = -1
    renumbered: Int64[np.ndarray, "m"] = place[labels]
    return renumbered


def _cores(rows: Float[Tensor, "m d"], metric: Metric) -> Float[Tensor, "m"]:
    """Distance of each row to its tenth neighbour, or to the farthest of fewer."""
    if len(rows) < 2:
        return torch.zeros(len(rows), dtype=precision_of(rows), device=rows.device)
    return nearest_neighbours(rows, min(VOTERS, len(rows) - 1), metric)[1][:, -1]


def in_series(numbers: Sequence[int]) -> str:
    """Numbers in words: 6, 12 and 31."""
    texts = [str(each) for each in numbers]
    return texts[0] if len(texts) == 1 else " and ".join([", ".join(texts[:-1]), texts[-1]]) if texts else ""
