"""What estimators of feature matrices share: arrays or tensors in, the same type out."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from shoal.clustering.parameters import Array
from shoal.clustering.rows import invalid_features_error, subsample
from shoal.errors import UserError
from shoal.mapped import known_map, release

FLOATS = [np.float64, np.float32, np.float16]
"""What is computed with as it is; all other numbers become the first."""

AT_ONCE = 65_536
"""Rows of which clusters are predicted at a time."""

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
            _check_exact_array(X)
            return _of_array(self._validated(X, reset=reset, dtype=FLOATS, order="C"))
        features = _of_tensor(X)
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            name = type(self).__name__
            raise UserError(f"X has {X.shape[1]} features, but {name} was fitted on {self.n_features_in_}.")
        return features

    def _validated(self, X: Array, **how: Any) -> Array:
        """The array, checked by scikit-learn for everything except finite values."""
        from sklearn.utils.validation import validate_data

        with _one_sentence():
            array: Array = validate_data(self, X, ensure_all_finite=False, **how)
        return array


@contextmanager
def _one_sentence() -> Iterator[None]:
    """scikit-learn's refusals as errors of our own."""
    try:
        yield
    except TypeError as error:
        raise NotNumbersError(str(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error


def features_from(X: Array | Tensor) -> Float[Tensor, "n d"]:
    """Rows as all estimators and functions read them, from a tensor or from whatever scikit-learn takes for an array.

    Floating point numbers keep their type, whole numbers become float64. Nothing is copied that need not be.

    Raises:
        UserError: not a matrix of real numbers, no columns, whole numbers that float64 cannot tell apart; of arrays
            also NaN, infinity and no rows, which the caller must check in tensors.
    """
    from sklearn.utils import check_array  # slow to import

    if isinstance(X, Tensor):
        return _of_tensor(X)
    _check_exact_array(X)
    with _one_sentence():
        array = check_array(X, dtype=FLOATS, ensure_all_finite=False)
    return _of_array(array)


def drawn_features(X: Array | Tensor, most: int, generator: torch.Generator) -> Float[Tensor, "m d"]:
    """``features_from`` of at most ``most`` rows, drawn at random, in their order; no others are read of a memory map.

    Raises:
        UserError: as ``features_from``.
    """
    if isinstance(X, Tensor | np.ndarray) and X.ndim == 2:
        index = subsample(len(X), most, generator)
        drawn = X if len(index) == len(X) else X[index.to(X.device) if isinstance(X, Tensor) else index.numpy()]
        return features_from(drawn)
    features = features_from(X)
    return features[subsample(len(features), most, generator)]


def _of_tensor(X: Tensor) -> Float[Tensor, "n d"]:
    if X.ndim != 2 or X.is_complex() or X.layout != torch.strided:
        dense = "" if X.layout == torch.strided else "sparse "
        raise UserError(f"X is a {dense}tensor {tuple(X.shape)} of {X.dtype}: give real numbers, (n, d), dense.")
    if not X.shape[1]:
        raise UserError(f"X has no features, its shape is {tuple(X.shape)}: give at least one.")
    if X.is_floating_point() or X.is_meta:
        return X
    check_exact(X)
    return X.double()


def _of_array(array: Array) -> Float[Tensor, "n d"]:
    if any(stride < 0 for stride in array.strides):  # torch has no such tensors
        array = np.ascontiguousarray(array)
    features = tensor_on(array)
    # The sum is quick, and finite only if all values are; where it overflows, look closer.
    if not torch.isfinite(features.sum()) and not torch.isfinite(features).all():
        raise invalid_features_error(features)
    return features


def _check_exact_array(X: Any) -> None:
    """``check_exact`` of whatever scikit-learn takes for an array, if it is one of whole numbers."""
    try:
        array = np.asarray(X)
    except (TypeError, ValueError):  # which scikit-learn explains
        return
    if array.ndim == 2:
        check_exact(array)


def check_exact(X: Array | Tensor, name: str = "X") -> None:
    """Refuse whole numbers beyond 2⁵³, such as times in nanoseconds, if as float64 they would fall together.

    Raises:
        UserError: a column spans less than 2²⁴ of the steps in which float64 counts there.
    """
    if isinstance(X, Tensor) and X.is_floating_point():
        return
    array = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or not len(array):
        return
    for low, high in zip(array.min(0).tolist(), array.max(0).tolist(), strict=True):
        step = max(-low, high) >> 52
        if step and 0 < high - low < step << 24:
            raise UserError(
                f"{name} holds whole numbers from {low} to {high}, which float64 cannot tell apart: subtract {low}."
            )


def tensor_on(array: Array) -> Tensor:
    """A tensor on an array's memory, which may be read-only, such as a memory map: nothing writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return known_map(array, torch.from_numpy(array))


def as_input_type(X: ArrayOrTensor, result: Tensor) -> ArrayOrTensor:
    """A result as a tensor or an array, as the input was."""
    return result if isinstance(X, Tensor) else result.cpu().numpy()


def warn_if_fewer(found: int, n_clusters: int) -> None:
    """Warn, in scikit-learn's words, if there are fewer clusters than asked for."""
    if found < n_clusters:
        warnings.warn(
            f"Number of distinct clusters ({found}) found smaller than n_clusters ({n_clusters}). Possibly due to "
            "duplicate points in X.",
            ConvergenceWarning,
            stacklevel=3,
        )


class SharesEstimator(TakesTensors, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn clustering estimator that predicts from ``_shares``, for arrays and tensors."""

    @abstractmethod
    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each cluster."""

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The most probable cluster of each row, int64 (n,)."""
        return as_input_type(X, self._likeliest(self._features(X)))

    def _likeliest(self, features: Float[Tensor, "n d"]) -> Int64[Tensor, "n"]:
        """The most probable cluster of each row, a part of the rows at a time: there are k numbers for each."""
        labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
        for start in range(0, len(features), AT_ONCE):
            labels[start : start + AT_ONCE] = self._shares(features[start : start + AT_ONCE]).argmax(1)
            release(features)
        return labels

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each cluster given the row, (n, k)."""
        return as_input_type(X, self._shares(self._features(X)))
