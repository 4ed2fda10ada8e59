"""What estimators of feature matrices share: arrays or tensors in, the same kind of thing out."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClusterMixin
from torch import Tensor

from shoal.clustering.rows import invalid_features_error
from shoal.errors import UserError

Array = npt.NDArray[Any]
ArrayOrTensor = TypeVar("ArrayOrTensor", Array, Tensor)


class NotNumbersError(UserError, TypeError):
    """A matrix of the wrong kind: sparse, or of things that are no numbers. scikit-learn raises TypeError for it."""


class TakesTensors:
    """Part of a scikit-learn estimator that takes tensors as well."""

    def _features(self, X: Array | Tensor, *, reset: bool = False) -> Float[Tensor, "n d"]:
        """The rows as a tensor, checked as scikit-learn would check an array.

        Raises:
            UserError: not a matrix of real numbers, no columns, not the features of the fit; in an array also NaN,
                infinity and no rows, which a tensor's user must look for.
        """
        from sklearn.utils.validation import check_is_fitted  # takes a second, which a training should not wait for

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
        # A sum is quick, and finite only if all values are; one that overflows is looked into.
        if not torch.isfinite(features.sum()) and not torch.isfinite(features).all():
            raise invalid_features_error(features)
        return features

    def _validated(self, X: Array, **how: Any) -> Array:
        """The array, checked by scikit-learn in all but whether its values are finite."""
        from sklearn.utils.validation import validate_data

        try:
            array: Array = validate_data(self, X, ensure_all_finite=False, **how)
        except TypeError as error:
            raise NotNumbersError(str(error)) from error
        except ValueError as error:
            raise UserError(str(error)) from error
        return array


def tensor_on(array: Array) -> Tensor:
    """A tensor on an array's memory, which perhaps must not be written to, as that of a map: nobody does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def as_input_type(X: ArrayOrTensor, result: Tensor) -> ArrayOrTensor:
    """A result as the kind of thing that was given."""
    return result if isinstance(X, Tensor) else result.cpu().numpy()


def points_from(given: Array | Tensor, name: str) -> Float[Tensor, "*shape"]:
    """Points that a user gave as parameter ``name``, as a tensor.

    Raises:
        UserError: not an array of real numbers.
    """
    try:
        points = given if isinstance(given, Tensor) else torch.tensor(np.asarray(given))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is not an array of numbers ({error}): give one row for each cluster.") from error
    if points.is_complex() or points.layout != torch.strided:
        raise UserError(f"{name} holds {points.dtype} as {points.layout}: give real numbers, dense.")
    return points if points.is_floating_point() else points.float()


def weights_from(given: Array | Tensor, features: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """A weight for each row.

    Raises:
        UserError: not n numbers, a negative or infinite one or NaN, or all zero.
    """
    weights = points_from(given, "sample_weight")
    weights = weights.to(features.device, precision_of(features) if features.is_floating_point() else torch.float32)
    if weights.ndim == 0:
        weights = weights.expand(len(features))
    if weights.shape != (len(features),):
        raise UserError(f"sample_weight has shape {tuple(weights.shape)}: give one for each row, ({len(features)},).")
    if not torch.isfinite(weights).all() or (weights < 0).any() or (len(weights) and not weights.any()):
        raise UserError("sample_weight holds a negative number, NaN or infinity, or only zeros: give finite weights.")
    return weights


def generator_from(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A generator for scikit-learn's ``random_state``."""
    from sklearn.utils import check_random_state

    return torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31)))


def precision_of(features: Float[Tensor, "n *d"]) -> torch.dtype:
    """The precision of what is told of rows: theirs, and float32 at least."""
    return torch.promote_types(features.dtype, torch.float32)


class SharesEstimator(TakesTensors, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn estimator whose fit leaves what ``_shares`` needs, for arrays and tensors."""

    @abstractmethod
    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Probability of each cluster."""

    def predict(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """The most probable cluster of each row, int64 (n,)."""
        return as_input_type(X, self._shares(self._features(X)).argmax(1))

    def predict_proba(self, X: ArrayOrTensor) -> ArrayOrTensor:
        """Probability of each cluster given the row, (n, k)."""
        return as_input_type(X, self._shares(self._features(X)))
