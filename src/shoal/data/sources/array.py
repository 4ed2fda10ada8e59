"""Arrays: images as numbers (NumPy, torch, ``.npy`` files, scikit-learn's digits)."""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from shoal.data.decode import resized
from shoal.data.listing import as_images, check_regular
from shoal.errors import UserError
from shoal.types import Images

_CHUNK = 256  # images converted at a time
_DAMAGE = (
    # NumPy parses the header as Python code, and lets its errors through.
    *(ValueError, TypeError, OverflowError, EOFError),
    *(SyntaxError, RecursionError, tokenize.TokenError),
)
_SHAPES = "(n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w)"


def images_from_array(array: NDArray[Any] | Tensor, name: str, size: int | None) -> Images:
    """Make unlabelled images of an array: uint8, or float in [0, 1]; grey or RGB, channels first or last.

    Raises:
        UserError: another type, values outside [0, 1], or a shape that does not fit images.
    """
    pixels = _to_pixels(_as_numpy(array), name, size)
    return as_images(pixels, [-1] * len(pixels), (), _row_names(name, len(pixels)), {})


def images_from_npy(path: Path, size: int | None) -> Images:
    """Read the images of a ``.npy`` file, which is mapped, not loaded.

    Raises:
        UserError: the file cannot be read, is damaged, or holds Python objects or no images.
    """
    return images_from_array(map_npy(path), path.name, size)


def digits(size: int | None) -> Images:
    """Load scikit-learn's 1 797 handwritten digits, 8 × 8, greys scaled from 0…16 to 0…255."""
    from sklearn.datasets import load_digits  # takes a second

    bunch = load_digits()
    pixels = _to_pixels(np.rint(bunch.images * (255 / 16)).astype(np.uint8), "digits", size)
    return as_images(pixels, bunch.target.tolist(), tuple("0123456789"), _row_names("digits", len(pixels)), {})


def _row_names(name: str, n: int) -> list[str]:
    return [f"{name}#{row}" for row in range(n)]


def _as_numpy(array: NDArray[Any] | Tensor) -> NDArray[Any]:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.dtype.isnative and all(stride >= 0 for stride in array.strides):
        return array
    # torch supports neither the other byte order nor negative strides.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _to_pixels(values: NDArray[Any], name: str, size: int | None) -> UInt8[np.ndarray, "n 3 H W"]:
    """Convert an array to pixels; a memory map of uint8 stays one unless its images are resized."""
    if not (values.dtype == np.uint8 or np.issubdtype(values.dtype, np.floating)):
        raise UserError(f"{name} has type {values.dtype}: give uint8, or float between 0 and 1.")
    planes = _channels_first(values, name)
    if planes.dtype == np.uint8 and size is None:
        pixels = _as_rgb(planes)
        return pixels if isinstance(planes, np.memmap) else np.ascontiguousarray(pixels)
    side: Sequence[int] = planes.shape[2:] if size is None else (size, size)
    out = np.empty((len(planes), 3, *side), dtype=np.uint8)
    for start in range(0, len(planes), _CHUNK):
        part = planes[start : start + _CHUNK]
        rgb = _as_rgb(part if part.dtype == np.uint8 else _to_uint8(part, name))
        out[start : start + _CHUNK] = rgb if size is None else [resized(image, size) for image in rgb]
    return out


def _as_rgb(planes: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Repeat a grey channel three times, without a copy."""
    return np.broadcast_to(planes, (len(planes), 3, *planes.shape[2:]))


def _channels_first(values: NDArray[Any], name: str) -> Shaped[np.ndarray, "n c h w"]:
    shape = values.shape
    if 0 in shape:
        raise UserError(f"{name} has shape {shape}: it contains no images.")
    if values.ndim == 3 and shape[-1] not in (1, 3):
        return values[:, None]
    if values.ndim != 4:
        hint = "write one image as array[None], and flat rows as array.reshape(n, h, w)"
        raise UserError(f"{name} has shape {shape}, but images have {_SHAPES}: {hint}.")
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        problem = "its channels could be first or last" if first else "no axis has 1 or 3 channels"
        raise UserError(f"{name} has shape {shape}, and {problem}: give {_SHAPES}.")
    return values if first else values.transpose(0, 3, 1, 2)


def _to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        found = "NaN" if np.isnan([low, high]).any() else f"values from {low:g} to {high:g}"
        raise UserError(f"{name} contains {found}, but float images must be between 0 and 1: scale them or give uint8.")
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)


def map_npy(path: Path) -> NDArray[Any]:
    """Map the array of a ``.npy`` file into memory.

    Raises:
        UserError: the file cannot be read, is damaged, not a ``.npy`` file, or holds Python objects.
    """
    try:
        check_regular(path)
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except _DAMAGE as error:
        what = "it is damaged, or not a .npy file of numbers (Python objects are refused)"
        raise UserError(f"cannot read {path}: {what}.") from error
