"""What estimators of feature matrices share: arrays or tensors in, the same type out."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClusterMixin
from torch import Tensor

from shoal.clustering.parameters import Array
from shoal.clustering.rows import invalid_features_error
from shoal.errors import UserError

ArrayOrTensor = TypeVar("ArrayOrTensor", Array, Tensor)


class NotNumbersError(UserError, TypeError):
    """A sparse matrix, or one of anything but numbers, for which scikit-learn expects a TypeError."""


class TakesTensors:
    """Mixin for scikit-learn estimators that accept tensors as well as arrays."""

    def _features(self, X: Array | Tensor, *, reset: bool = False) -> Float[Tensor, "n d"]:
        """The rows as a tensor, checked as scikit-learn would check an array.

        Raises:
            UserError: not a matrix of real numbers, no columns, not as many as in the fit; of arrays also NaN, infinity
                and no rows, which the caller must check in tensors.
        """
        from sklearn.utils.validation import check_is_fitted  # slow to import

        if not reset:
            check_is_fitted(self)
        if not isinstance(X, Tensor):
            return self._of_array(X, reset)
        if X.ndim != 2 or X.is_complex() or X.layout != torch.strided:
            dense = "" if X.layout == torch.strided else "sparse "
            raise UserError(f"X is a {dense}tensor {tuple(X.shape)} of {X.dtype}: give real numbers, (n, d), dense.")
        if not X.shape[1]:
            raise UserError(f"X has no features, its shape is {tuple(X.shape)}: give at least one.")
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            name = type(self).__name__
            raise UserError(f"X has {X.shape[1]} features, but {name} was fitted on {self.n_features_in_}.")
        return X if X.is_floating_point() else X.float()

    def _of_array(self, X: Array, reset: bool) -> Float[Tensor, "n d"]:
        kinds = [np.float64, np.float32, np.float16]
        features = tensor_on(self._validated(X, reset=reset, dtype=kinds, order="C"))
        # The sum is quick, and finite only if all values are; where it overflows, look closer.
        if not torch.isfinite(features.sum()) and not torch.isfinite(features).all():
            raise invalid_features_error(features)
        return features

    def _validated(self, X: Array, **how: Any) -> Array:
        """The array, checked by scikit-learn for everything except finite values."""
        from sklearn.utils.validation import validate_data

        try:
            array: Array = validate_data(self, X, ensure_all_finite=False, **how)
        except TypeError as error:
            raise NotNumbersError(str(error)) from error
        except ValueError as error:
            raise UserError(str(error)) from error
        return array


def tensor_on(array: Array) -> Tensor:
    """A tensor on an array's memory, which may be read-only, such as a memory map: nothing writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def as_input_type(X: ArrayOrTensor, result: Tensor) -> ArrayOrTensor:
    """A result as a tensor or an array, as the input was."""
    return result if isinstance(X, Tensor) else result.cpu().numpy()


class SharesEstimator(TakesTensors, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn clustering estimator that predicts from ``_shares``, for arrays and tensors."""

    @abstractmethod
    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each cluster."""

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The most probable cluster of each row, int64 (n,)."""
        return as_input_type(X, self._shares(self._features(X)).argmax(1))

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each cluster given the row, (n, k)."""
        return as_input_type(X, self._shares(self._features(X)))
