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

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cluster_centers_")

    def _centers(self, features: Tensor) -> Float[Tensor, "k d"]:
        return torch.as_tensor(self.cluster_centers_).to(features.device)
