"""What estimators of feature matrices share: arrays or tensors in, the same kind of thing out."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from shoal.errors import UserError

Array = npt.NDArray[Any]
ArrayOrTensor = TypeVar("ArrayOrTensor", Array, Tensor)


class TakesTensors:
    """Part of a scikit-learn estimator that takes tensors as well."""

    def _features(self, X: Array | Tensor, *, reset: bool = False) -> Float[Tensor, "n d"]:
        """The rows as a tensor, checked as scikit-learn would check an array.

        Raises:
            UserError: not a matrix of real numbers, not the features of the fit; in an array also NaN, infinity
                and no rows, which a tensor's user must look for.
        """
        if not reset:
            check_is_fitted(self)
        if not isinstance(X, Tensor):
            try:
                array: Array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], order="C")
            except ValueError as error:
                raise UserError(str(error)) from error
            # torch warns of memory that must not be written to, a memory map for one.
            return torch.from_numpy(array if array.flags.writeable else array.copy())
        if X.ndim != 2 or X.is_complex():
            raise UserError(f"X is a tensor {tuple(X.shape)} of {X.dtype}: give real numbers, (n, d).")
        if reset:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            name = type(self).__name__
            raise UserError(f"X has {X.shape[1]} features, but {name} was fitted on {self.n_features_in_}.")
        return X if X.is_floating_point() else X.float()


def like(X: ArrayOrTensor, result: Tensor) -> ArrayOrTensor:
    """A result as the kind of thing that was given."""
    return result if isinstance(X, Tensor) else result.cpu().numpy()


def generator_from(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A generator for scikit-learn's ``random_state``."""
    return torch.Generator().manual_seed(int(check_random_state(random_state).randint(2**31)))
