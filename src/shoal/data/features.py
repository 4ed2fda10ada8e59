"""Feature matrices in ``.npy`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from shoal.clustering.inputs import check_exact, tensor_on
from shoal.data.sources.array import map_npy
from shoal.errors import UserError
from shoal.progress import counted

LARGEST = 1e150
"""Values beyond have squares that float64 does not hold."""


def read_features(path: Path, *, cosine: bool) -> Float[Tensor, "n d"]:
    """A feature matrix from a ``.npy`` file (n, d) of real numbers of any type, mapped rather than read if possible.

    Floating point numbers keep their type, so that none loses digits; whole numbers become float32 if they have 16
    bits at most, and float64 otherwise.

    Raises:
        UserError: the file cannot be read, has another shape or type, or contains NaN, infinity, values that are too
            large, whole numbers that float64 cannot tell apart or, with ``cosine``, rows of zeros.
    """
    array = map_npy(path)
    if array.dtype.kind not in "fiu":  # timedeltas count as integers in NumPy
        raise UserError(f"{path} contains {array.dtype}: features must be real numbers.")
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{path} has shape {array.shape}: features must be (n, d), one row per image.")
    rows = _as_floats(array, path)
    n_bad = n_zero = 0
    largest = 0.0
    for part in torch.split(rows, max(1, 2**20 // rows.shape[1])):
        n_bad += int((~torch.isfinite(part)).any(1).sum())
        n_zero += int((part == 0).all(1).sum())
        largest = max(largest, float(part.abs().max()))
    if n_bad:
        raise UserError(f"{path} contains NaN or infinity in {n_bad} of {counted(len(rows), 'row')}: remove them.")
    if largest > LARGEST:
        raise UserError(f"{path} contains values up to {largest:g}, whose squares overflow: divide all by a constant.")
    if cosine and n_zero:
        zeros = counted(n_zero, "row of zeros, which has", "rows of zeros, which have")
        raise UserError(f"{path} contains {zeros} no cosine: remove {'it' if n_zero == 1 else 'them'}.")
    return rows


def _as_floats(array: NDArray[Any], path: Path) -> Float[Tensor, "n d"]:
    if array.dtype.kind in "iu":
        check_exact(array, str(path))
        array = array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
    elif array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # too large values become infinite, which is reported
            array = array.astype(np.float64)
    elif not array.dtype.isnative:  # torch has no other byte order
        array = array.astype(array.dtype.newbyteorder("="))
    return tensor_on(array)
