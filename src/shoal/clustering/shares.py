"""What estimators share that know the probability of each cluster for any row."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float
from sklearn.base import BaseEstimator, ClusterMixin
from torch import Tensor

from shoal.clustering.inputs import ArrayOrTensor, TakesTensors, like


class SharesEstimator(TakesTensors, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator whose fit leaves what ``_shares`` needs, for arrays and tensors."""

    @abstractmethod
    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each cluster."""

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The most probable cluster of each row, int64 (n,)."""
        return like(X, self._shares(self._features(X)).argmax(1))

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each cluster given the row, (n, k)."""
        return like(X, self._shares(self._features(X)))
