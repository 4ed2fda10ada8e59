"""k-means with scikit-learn's interface, and what its estimators share once they have centres."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from torch import Tensor, nn

from shoal.clustering.inputs import ArrayOrTensor, TakesTensors, as_input_type, warn_if_fewer
from shoal.clustering.kmeans.nearest import to_points
from shoal.clustering.kmeans.restarts import Init, Settings, assign, run_kmeans
from shoal.clustering.parameters import (
    Array,
    centers_from,
    check_centers_shape,
    check_choice,
    check_counts,
    generator_from,
    hinting,
    points_from,
    precision_of,
    put_ahead,
    weights_from,
)
from shoal.clustering.rows import Metric, Rows, Shards, invalid_features_error, squared_distances, unit_length

Algorithm = Literal["lloyd", "elkan"]
CANCELLED = 1e-8
"""Squared distances below this share of ‖x‖² have lost digits in ‖x‖² − 2x·c + ‖c‖²."""

InitFunction = Callable[..., Any]
"""Called as scikit-learn calls it, ``init(X, n_clusters, random_state=…)``; returns (k, d) centres."""


class CentersPosterior(nn.Module):
    """softmax(−d² / (2 σ²)) over centres, where d² = 2 (1 − cos) for the cosine: the posterior of k-means.

    It computes in float64, so that rows far from the origin lose no digits, and answers in the features' precision.
    """

    centers: Tensor
    shift: Tensor

    def __init__(self, centers: Float[Tensor, "k d"], metric: Metric, variance: float) -> None:
        super().__init__()
        self.cosine = metric == "cosine"
        centers = unit_length(centers.double()) if self.cosine else centers.double()
        self.register_buffer("shift", centers.mean(0))
        self.register_buffer("centers", centers - self.shift)
        # With no spread at all a row belongs to its nearest centre alone, also in the float32 of an exported network.
        self.scale = 1 / max(2 * variance, torch.finfo(torch.float64 if variance > 0 else torch.float32).tiny)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        return self.log_scores(features).softmax(1).to(precision_of(features))

    def log_scores(self, features: Float[Tensor, "b d"]) -> Float64[Tensor, "b k"]:
        """Log probability of each cluster but for a constant per row."""
        x = unit_length(features.double()) if self.cosine else features.double()
        # Without the ‖x‖² of the squared distances, which is the same for all.
        squared = squared_distances(x - self.shift, self.centers)
        return (squared - squared.amin(1, keepdim=True)) * -self.scale


class CentersEstimator(
    TakesTensors,
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """A scikit-learn estimator whose fit leaves ``cluster_centers_``, for arrays and tensors."""

    n_clusters: int
    metric: Metric
    init: Init | Array | Tensor | InitFunction
    n_init: int | Literal["auto"]
    random_state: int | np.random.RandomState | None
    cluster_centers_: Array | Tensor
    variance_: float

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Index of the nearest centre of each row, int64 (n,)."""
        features = self._features(X)
        return as_input_type(X, assign(features, self._centers(features), self.metric)[0])

    def transform(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Distance of each row to every centre, ‖x − c‖ or 1 − cos, (n, k)."""
        features = self._features(X)
        centers = self._centers(features)
        # In float64, in which they may lie far from the origin and from each other.
        rows = Rows(features, self.metric, centers.double().mean(0), torch.float64)
        points = rows.prepare(centers)
        distances = torch.empty(len(rows), len(points), dtype=precision_of(features), device=features.device)
        for part, x in rows.chunks(len(points)):
            lengths = rows.squared_lengths[part]
            squared = squared_distances(x, points).add_(lengths).clamp_(min=0)
            row, center = (squared < CANCELLED * lengths).nonzero(as_tuple=True)
            squared[row, center] = to_points(x[row], points[center]).square()
            distances[part] = rows.distance(squared).to(distances.dtype)
        if not torch.isfinite(distances).all():
            raise invalid_features_error(features)
        return as_input_type(X, distances)

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each cluster given the row, (n, k): softmax of −d² / (2 σ²); for the cosine d² = 2 (1 − cos).

        These are the posteriors of equally large spherical Gaussians of variance σ² = ``variance_``: the rows' mean
        squared distance to their centres over the min(d, k − 1) dimensions that the centres span, as if all the spread
        lay in these. Divided by all d dimensions, σ² would be so small in high dimensions that every row were certain.
        The most probable cluster is that of ``predict``.
        """
        features = self._features(X)
        shares = features.new_empty(len(features), len(self.cluster_centers_), dtype=precision_of(features))
        for part, labels, scores in self._scores(features):
            shares[part] = put_ahead(scores.softmax(1).to(shares.dtype), labels)
        return as_input_type(X, shares)

    def log_scores(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Log probability of each cluster but for a constant per row, float64 (n, k): what ``predict_proba`` rounds."""
        features = self._features(X)
        found = features.new_empty(len(features), len(self.cluster_centers_), dtype=torch.float64)
        for part, labels, scores in self._scores(features):
            found[part] = scores.scatter_(1, labels, torch.finfo(found.dtype).tiny)  # ahead of equals
        return as_input_type(X, found)

    def _scores(
        self, features: Float[Tensor, "n d"]
    ) -> Iterator[tuple[slice, Int64[Tensor, "b 1"], Float64[Tensor, "b k"]]]:
        """Slices of the rows, the nearest centre of each row, and log probabilities less that of the nearest."""
        module = self.as_module().to(features.device)
        # The nearest centre as predict finds it, who looks closer where two centres are equally near but for rounding.
        labels = assign(features, self._centers(features), self.metric)[0][:, None]
        for part in Rows(features, self.metric).parts(len(self.cluster_centers_)):
            scores = module.log_scores(features[part])
            scores -= scores.amax(1, keepdim=True)
            yield part, labels[part], scores.scatter_(1, labels[part], 0)

    def score(self, X: ArrayOrTensor, y: object = None, sample_weight: Array | Tensor | None = None) -> float:
        """Minus the inertia of rows, the sum of their squared distances to the nearest centres (cosine: of 1 − cos)."""
        features = self._features(X)
        distances = assign(features, self._centers(features), self.metric)[1]
        weights = None if sample_weight is None else weights_from(sample_weight, features)
        return -float(self._costs(distances, weights).sum())

    def _costs(self, distances: Float[Tensor, "n"], weights: Float[Tensor, "n"] | None) -> Float64[Tensor, "n"]:
        """What each row adds to the inertia."""
        costs = distances.double() if self.metric == "cosine" else distances.double().square()
        return costs if weights is None else costs * weights

    def _starts(self, X: Array | Tensor, d: int, usual: int) -> tuple[Init | Float[Tensor, "r k d"], int]:
        """How runs start, and how many there are: ``usual`` for "auto".

        Raises:
            UserError: an init that is neither known nor fits.
        """
        n_init: int = usual if self.n_init == "auto" else self.n_init
        check_counts(n_clusters=self.n_clusters, n_init=n_init)
        if isinstance(self.init, str):
            check_choice(self.init, Init, "init")
            return self.init, n_init
        if callable(self.init):
            from sklearn.utils import check_random_state  # slow to import

            random = check_random_state(self.random_state)
            given = [self.init(X, self.n_clusters, random_state=random) for _ in range(n_init)]
        else:
            given = [self.init]
            if self.n_init != "auto" and n_init > 1:
                warnings.warn(
                    "Explicit initial center position passed: performing only one init in "
                    f"{type(self).__name__} instead of n_init={n_init}.",
                    RuntimeWarning,
                    stacklevel=3,
                )
        points = [points_from(each, "init") for each in given]
        for each in points:
            check_centers_shape(each, self.n_clusters, d)
        return torch.stack(points), n_init

    def as_module(self) -> CentersPosterior:
        """The probabilities as a network."""
        return CentersPosterior(torch.as_tensor(self.cluster_centers_).cpu(), self.metric, self.variance_)

    def _spread(self, squared: float, weight: float) -> float:
        """σ² of ``predict_proba``, from the sum of squared distances, those of unit vectors for the cosine."""
        k, d = self.cluster_centers_.shape
        return squared / (weight * max(1, min(d, k - 1)))

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cluster_centers_")

    def _centers(self, features: Tensor) -> Float[Tensor, "k d"]:
        return torch.as_tensor(self.cluster_centers_).to(features.device)


class KMeans(CentersEstimator):
    """k-means for arrays and tensors, Euclidean or spherical, with scikit-learn's interface.

    Given a tensor, a call works on the tensor's device and returns tensors there (``fit``: its attributes). Given
    anything else that scikit-learn accepts as an array, it works on the CPU and returns numpy arrays.

    Args:
        n_clusters: k.
        metric: "euclidean", or "cosine" for spherical k-means: rows count by direction alone.
        init: how runs start: greedy "k-means++", the same among the candidates of "k-means||", from "random" rows; or
            the (k, d) centres from which a single run starts, or a function that makes them,
            ``init(X, n_clusters, random_state=…)``.
        n_init: runs from different seeds, of which the one with the smallest inertia is kept; "auto" is 10.
        max_iter: the most updates of the centres in a run.
        tol: a run ends when the squared moves of its centres sum to no more than this share of the features'
            variance, or when no row changes cluster.
        verbose: whether to print the inertia after each update.
        random_state: an int makes the result reproducible; None draws new seeds each time.
        copy_x: for scikit-learn's sake; rows are never changed.
        algorithm: "lloyd" or "elkan" as in scikit-learn; both are Lloyd's iteration with bounds.
        sharded: all ranks of a ``torch.distributed`` group call ``fit``, each with its own rows, perhaps none, and with
            the same int as ``random_state``. They find the clusters of all rows together; ``labels_`` are those of the
            rank's own rows.

    Attributes:
        labels_: int64 (n,), the cluster of each row.
        cluster_centers_: float (k, d), at unit length for the cosine.
        inertia_: sum over rows of the squared distance to the own centre (Euclidean), or of 1 − cos (cosine).
        variance_: σ² of ``predict_proba``.
        n_iter_: updates of the centres in the run that was kept.
        n_features_in_: d.
    """

    @hinting
    def __init__(  # noqa: PLR0913 - scikit-learn's parameters and two of our own
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "euclidean",
        init: Init | Array | Tensor | InitFunction = "k-means++",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
        copy_x: bool = True,
        algorithm: Algorithm = "lloyd",
        sharded: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.sharded = sharded

    def fit(self, X: ArrayOrTensor, y: object = None, sample_weight: Array | Tensor | None = None) -> KMeans:
        """Find the clusters of rows (n, d); ``y`` is ignored, and ``sample_weight`` (n,) says how often a row counts.

        Raises:
            UserError: fewer rows than clusters, NaN, infinity, a zero row under the cosine; weights that are
                not (n,) or negative; bad parameters.
        """
        features = self._features(X, reset=True)
        weights = None if sample_weight is None else weights_from(sample_weight, features)
        init, n_init = self._starts(X, features.shape[1], usual=10)
        self._check_algorithm()
        settings = Settings(
            n_clusters=self.n_clusters,
            metric=self.metric,
            init=init,
            n_init=n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            sharded=self.sharded,
            tell=print if self.verbose else None,
        )
        found, self.n_iter_ = run_kmeans(features, settings, generator_from(self.random_state), weights=weights)
        self._set_clusters(X, found.centers, found.labels, found.distances, weights)
        sizes = torch.bincount(found.labels, minlength=self.n_clusters)
        warn_if_fewer(int((Shards(self.sharded).sum(sizes) > 0).sum()), self.n_clusters)
        return self

    def _check_algorithm(self) -> None:
        check_choice(self.algorithm, Algorithm, "algorithm")
        if self.algorithm == "elkan" and self.n_clusters == 1:
            warnings.warn(
                "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                RuntimeWarning,
                stacklevel=3,
            )

    @classmethod
    def from_centers(cls, centers: Array | Tensor, features: ArrayOrTensor, metric: Metric = "euclidean") -> KMeans:
        """A fitted estimator with these centres (k, d), such as those of a training run, and no update of them.

        Args:
            centers: k of them; for the cosine they need not have unit length.
            features: the rows (n, d) whose clusters they are, read in chunks; they decide ``labels_``, ``inertia_`` and
                ``variance_``, and as in ``fit`` whether attributes are tensors or arrays.
            metric: of the distances.

        Raises:
            UserError: NaN, infinity or, under the cosine, a zero row; centres of another width.
        """
        model = cls(len(centers), metric=metric)
        rows = Rows(model._features(features, reset=True), metric)
        given = centers_from(centers, rows, (len(centers), rows.features.shape[1]), "centers").to(rows.dtype)
        labels, distances, _ = assign(rows.features, given, metric)
        model.n_iter_ = 0
        model._set_clusters(features, given, labels, distances, None)
        return model

    def _set_clusters(
        self,
        X: ArrayOrTensor,
        centers: Float[Tensor, "k d"],
        labels: Int64[Tensor, "n"],
        distances: Float[Tensor, "n"],
        weights: Float[Tensor, "n"] | None,
    ) -> None:
        costs = self._costs(distances, weights)
        weight = costs.new_tensor(len(costs)) if weights is None else weights.sum(dtype=torch.float64)
        self.inertia_, total = Shards(self.sharded).sum(torch.stack([costs.sum(), weight])).tolist()
        self.labels_: Array | Tensor = as_input_type(X, labels)
        self.cluster_centers_: Array | Tensor = as_input_type(X, centers)
        self.variance_ = self._spread(2 * self.inertia_ if self.metric == "cosine" else self.inertia_, total)
