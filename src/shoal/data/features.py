"""Feature matrices and labels from ``.npy`` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from shoal.data.arrays import map_npy
from shoal.errors import UserError


def read_features(path: Path, *, cosine: bool) -> Float[Tensor, "n d"]:
    """Read the rows of a file, in float32.

    Args:
        path: .npy file (n, d) of real numbers of any type.
        cosine: whether rows must have a direction.

    Raises:
        UserError: the file cannot be read or holds something else, NaN, infinity or, for the cosine, rows of zeros.
    """
    array = read_npy(path)
    if array.dtype.kind not in "fiu":  # spans of time are integers to NumPy
        raise UserError(f"{path} holds {array.dtype}: features are real numbers.")
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{path} has shape {array.shape}: features are (n, d), a row for each image.")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told below
        rows = torch.from_numpy(array.astype(np.float32))
    n_bad = int((~torch.isfinite(rows)).any(1).sum())
    if n_bad:
        raise UserError(f"{path} holds NaN or infinity in {n_bad} of {len(rows)} rows: leave these out.")
    n_zero = int((rows == 0).all(1).sum())
    if cosine and n_zero:
        raise UserError(f"{path} holds {n_zero} rows of zeros, which have no cosine: leave these out.")
    return rows


def read_npy(path: Path) -> npt.NDArray[np.generic]:
    """Map the array of a file.

    Raises:
        UserError: it cannot be read, or is no ``.npy`` file of numbers.
    """
    try:
        return map_npy(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        what = "it is damaged, or no .npy file of numbers (Python objects are refused)"
        raise UserError(f"cannot read {path}: {what}.") from error
