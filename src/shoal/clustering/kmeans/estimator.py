"""What k-means estimators share once they have centres."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from torch import Tensor

from shoal.clustering.inputs import (
    Array,
    ArrayOrTensor,
    TakesTensors,
    as_input_type,
    generator_from,
    points_from,
    precision_of,
    weights_from,
)
from shoal.clustering.kmeans.restarts import Init, assign, best_centers
from shoal.clustering.rows import Metric, Rows, Shards, invalid_features_error, squared_distances


class CentersEstimator(
    TakesTensors,
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """A scikit-learn estimator whose fit leaves ``cluster_centers_``, for arrays and tensors."""

    metric: Metric
    cluster_centers_: Array | Tensor
    variance_: float

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Number of the nearest centre of each row, int64 (n,)."""
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
            squared = squared_distances(x, points).add_(rows.squared_lengths[part]).clamp_(min=0)
            distances[part] = rows.distance(squared).to(distances.dtype)
        if not torch.isfinite(distances).all():
            raise invalid_features_error(features)
        return as_input_type(X, distances)

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each cluster given the row, (n, k): softmax of −d² / (2 σ²); for the cosine d² = 2 (1 − cos).

        These are the posteriors of equally large clusters that are round Gaussians of variance σ² = ``variance_``: the
        rows' mean squared distance to their centres over the min(d, k − 1) dimensions that the centres span. That
        counts the whole spread as if it lay among the centres. Shared among all d dimensions, σ² would be so small in
        high dimensions that every row were certain. The most probable cluster is that of ``predict``.
        """
        features = self._features(X)
        distances = self.transform(features)
        squared = 2 * distances if self.metric == "cosine" else distances.square()
        squared -= squared.amin(1, keepdim=True)
        # predict looks closer where centres are equally near but for rounding.
        labels = self.predict(features)[:, None]
        squared.scatter_(1, labels, 0)
        # With no spread at all a row belongs to its nearest centre alone.
        smallest = torch.finfo(squared.dtype).tiny
        shares = (squared / -max(2 * self.variance_, smallest)).softmax(1)
        top = shares.amax(1, keepdim=True)
        just_above = torch.nextafter(top, top + 1)
        own = torch.where(shares.argmax(1, keepdim=True) == labels, top, just_above)
        shares.scatter_(1, labels, own)
        return as_input_type(X, shares)

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

    What a call is given decides where it works and what it answers with. Given a tensor, it works on the
    tensor's device and the answers (of ``fit``: its attributes) are tensors there. Given anything else that
    scikit-learn takes for an array, it works on the CPU and the answers are numpy arrays.

    Args:
        n_clusters: k.
        metric: "euclidean", or "cosine" for spherical k-means: rows count by direction alone.
        init: how runs start: greedy "k-means++", the same among the candidates of "k-means||", from "random" rows; or
            the (k, d) centres of a single run, those of an earlier fit for one.
        n_init: runs from different seeds, of which the one with the smallest inertia is kept.
        max_iter: the most updates of the centres in a run.
        tol: a run ends when the squared moves of its centres sum to no more than this share of the features'
            variance, or when no row changes cluster.
        random_state: an int repeats the seeds; None draws other ones each time.
        sharded: ``fit`` is called by all ranks of a ``torch.distributed`` group, each with rows of its own, perhaps
            none, and with the same ``random_state``, an int. They find the clusters of all rows together; ``labels_``
            are those of the rank's own.

    Attributes:
        labels_: int64 (n,), the cluster of each row.
        cluster_centers_: float (k, d), at unit length for the cosine.
        inertia_: sum over rows of the squared distance to the own centre (Euclidean), or of 1 − cos (cosine).
        variance_: σ² of ``predict_proba``.
        n_iter_: updates of the centres in the run that was kept.
        n_features_in_: d.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "euclidean",
        init: Init | Array | Tensor = "k-means++",
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int | np.random.RandomState | None = None,
        sharded: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.sharded = sharded

    def fit(self, X: ArrayOrTensor, y: object = None, sample_weight: Array | Tensor | None = None) -> KMeans:
        """Find the clusters of rows (n, d); ``y`` is ignored, and ``sample_weight`` (n,) says how often a row counts.

        Raises:
            UserError: fewer rows than clusters, NaN, infinity, a zero row under the cosine; weights that are
                not (n,) or negative; bad parameters.
        """
        features = self._features(X, reset=True)
        weights = None if sample_weight is None else weights_from(sample_weight, features)
        found, self.n_iter_ = best_centers(
            features,
            self.n_clusters,
            generator=generator_from(self.random_state),
            metric=self.metric,
            init=self.init if isinstance(self.init, str) else points_from(self.init, "init"),
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            weights=weights,
            sharded=self.sharded,
        )
        costs = found.distances.double() if self.metric == "cosine" else found.distances.double().square()
        costs = costs if weights is None else costs * weights
        weight = costs.new_tensor(len(costs)) if weights is None else weights.sum(dtype=torch.float64)
        self.inertia_, total = Shards(self.sharded).sum(torch.stack([costs.sum(), weight])).tolist()
        self.labels_: Array | Tensor = as_input_type(X, found.labels)
        self.cluster_centers_: Array | Tensor = as_input_type(X, found.centers)
        self.variance_ = self._spread(2 * self.inertia_ if self.metric == "cosine" else self.inertia_, total)
        return self
