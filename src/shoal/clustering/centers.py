"""What k-means estimators share once they have centres."""

from __future__ import annotations

import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from torch import Tensor

from shoal.clustering.inputs import Array, ArrayOrTensor, TakesTensors, like, precision_of
from shoal.clustering.kmeans import assign
from shoal.clustering.rows import Metric, Rows, squared_distances, unusable


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
        return like(X, assign(features, self._centers(features), self.metric)[0])

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
            raise unusable(features)
        return like(X, distances)

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
        return like(X, shares)

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
