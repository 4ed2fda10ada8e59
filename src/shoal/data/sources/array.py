"""Arrays: images as numbers (NumPy, torch, ``.npy`` files, scikit-learn's digits)."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from shoal.data.decode import UnreadableError
from shoal.data.greys import ANY, Extremes, Range, Ranges, Samples, Scale, find_missing, full_range
from shoal.data.listing import Blob, Listing, Pixels, as_images, check_regular
from shoal.data.rgb import resized, samples_to_rgb, to_array
from shoal.data.sources.labels import no_classes
from shoal.errors import UserError
from shoal.types import Images

_CHUNK = 256  # images converted at a time
_DAMAGE = (
    # NumPy parses the header as Python code, and lets its errors through.
    *(ValueError, TypeError, OverflowError, EOFError),
    *(SyntaxError, RecursionError, tokenize.TokenError),
)
_SHAPES = "(n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w)"
_SHAPES_OF_ONE = "(h, w), (h, w, 1 or 3) or (1 or 3, h, w), or a PIL image where a channel is opacity"


def images_from_array(array: NDArray[Any] | Tensor, name: str, size: int | None, scale: Scale | None = None) -> Images:
    """Make unlabelled images of an array: whole numbers, or float in [0, 1]; grey or RGB, channels first or last.

    Whole numbers of more than 8 bits are scaled by the range of ``scale``, else by one for the whole array; floats may
    have other values where ``scale`` says what is black and white.

    Raises:
        UserError: another type, values outside [0, 1], or a shape that does not fit images.
    """
    values = _as_numpy(array)
    scale = Scale(scale.ranges if scale else None, lambda: _measured(values, name))
    pixels = _to_pixels(values, name, size, scale)
    images = as_images(pixels, no_classes(len(pixels)), (), _row_names(name, len(pixels)), {})
    return replace(images, ranges=scale.ranges)


def images_from_npy(path: Path, size: int | None, scale: Scale) -> Images:
    """Read the images of a ``.npy`` file, which is mapped, not loaded.

    Raises:
        UserError: the file cannot be read, is damaged, or holds Python objects or no images.
    """
    return images_from_array(map_npy(path), path.name, size, scale)


def npy_listing(path: Path) -> Listing:
    """List the images of a ``.npy`` file, which is mapped, not loaded.

    Raises:
        UserError: the file cannot be read, is damaged, or holds Python objects or no images.
    """
    values, name = _as_numpy(map_npy(path)), path.name
    planes = _planes(values, name)

    def blobs(start: int = 0) -> Iterator[Blob]:
        return map(_blob, planes[start:])

    n = len(planes)
    return Listing(_row_names(name, n), no_classes(n), (), blobs, seek=blobs, measure=lambda: _measured(values, name))


def digits(size: int | None, _scale: Scale | None = None) -> Images:
    """Load scikit-learn's 1 797 handwritten digits, 8 × 8, greys scaled from 0…16 to 0…255."""
    from sklearn.datasets import load_digits  # takes a second

    bunch = load_digits()
    pixels = _to_pixels(np.rint(bunch.images * (255 / 16)).astype(np.uint8), "digits", size, Scale())
    return as_images(pixels, bunch.target.tolist(), tuple("0123456789"), _row_names("digits", len(pixels)), {})


def blob_of_array(array: NDArray[Any] | Tensor, name: str, ranges: Ranges) -> Pixels | Samples:
    """Make a blob of one image: (h, w), (h, w, 1 or 3) or (1 or 3, h, w); numbers as in ``images_from_array``.

    Args:
        array: the image.
        name: of it, for messages.
        ranges: values that become black and white, by type of number.

    Raises:
        UnreadableError: another type or shape, or NaN.
        UserError: fractions outside [0, 1] whose black and white nobody has said: this is wrong for all images.
    """
    values = _as_numpy(array)
    if values.dtype.kind not in "iuf":
        raise UnreadableError(f"its type is {values.dtype}: give whole numbers, or float between 0 and 1")
    if 0 in values.shape:
        raise UnreadableError(f"its shape is {values.shape}: it has no pixels")
    if values.ndim == 2:
        planes = values[None]
    elif values.ndim == 3 and (values.shape[0] in (1, 3)) != (values.shape[2] in (1, 3)):
        planes = values if values.shape[0] in (1, 3) else values.transpose(2, 0, 1)
    else:
        raise UnreadableError(f"its shape is {values.shape}{_why_no_image(values.shape)}: give {_SHAPES_OF_ONE}")
    if values.dtype.kind == "f" and ANY not in ranges:
        if not np.isfinite(values).all():
            raise UnreadableError("it holds NaN or infinity")
        if ranges.get(values.dtype.name, (0.0, 1.0)) == (0.0, 1.0):
            _check_fractions(values, name)
    return _blob(planes)


def blob_of_greys(values: Shaped[np.ndarray, "h w"]) -> Pixels | Samples:
    """Make a blob of a grey image whose range its source decides; fractions in [0, 1] have theirs."""
    return _blob(_as_numpy(values)[None])


def _why_no_image(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return ", that of a batch"
    if len(shape) != 3:
        return ""
    return ", and its channels could be first or last" if shape[0] in (1, 3) else ", without an axis of 1 or 3 channels"


def _blob(image: Shaped[np.ndarray, "c h w"]) -> Pixels | Samples:
    return _as_rgb(image[None])[0] if image.dtype == np.uint8 else _samples(image)


def _row_names(name: str, n: int) -> list[str]:
    return [f"{name}#{row}" for row in range(n)]


def _as_numpy(array: NDArray[Any] | Tensor) -> NDArray[Any]:
    if isinstance(array, Tensor):
        if array.is_nested or array.layout != torch.strided:
            raise UserError("images are a sparse or nested tensor: give a dense one, which .to_dense() makes.")
        if array.is_meta or array.is_quantized:
            raise UserError("images are a meta or a quantized tensor: give one of plain numbers.")
        array = array.detach().cpu().resolve_conj().resolve_neg()
        without = array.is_floating_point() and array.dtype not in (torch.float16, torch.float32, torch.float64)
        array = (array.float() if without else array).numpy()  # numpy has no bfloat16, and none of eight bits
    if array.dtype.isnative and all(stride >= 0 for stride in array.strides):
        return array
    # torch supports neither the other byte order nor negative strides.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _to_pixels(values: NDArray[Any], name: str, size: int | None, scale: Scale) -> UInt8[np.ndarray, "n 3 H W"]:
    """Convert an array to pixels; a memory map of uint8 stays one unless its images are resized."""
    planes = _planes(values, name)
    if planes.dtype == np.uint8 and size is None:
        pixels = _as_rgb(planes)
        return pixels if isinstance(planes, np.memmap) else np.ascontiguousarray(pixels)
    if planes.dtype != np.uint8:
        before = {} if ANY in scale.ranges else scale.ranges
        scale.settle(planes.dtype.name)
        if planes.dtype.kind == "f" and before.get(planes.dtype.name) == (0.0, 1.0):
            _measured(planes, name)  # what an earlier array was scaled by says nothing of this one
    side: Sequence[int] = planes.shape[2:] if size is None else (size, size)
    out = np.empty((len(planes), 3, *side), dtype=np.uint8)
    for row, image in enumerate(planes):
        rgb = _as_rgb(image[None])[0] if image.dtype == np.uint8 else to_array(samples_to_rgb(_samples(image), scale))
        out[row] = rgb if size is None else resized(rgb, size)
    return out


def _planes(values: NDArray[Any], name: str) -> Shaped[np.ndarray, "n c h w"]:
    """Check type and shape, and put the channels first."""
    if values.dtype.kind not in "iuf":
        raise UserError(f"{name} has type {values.dtype}: give whole numbers, or float between 0 and 1.")
    return _channels_first(values, name)


def _samples(image: Shaped[np.ndarray, "c h w"]) -> Samples:
    """Make samples of an image that is not of uint8; floats in [0, 1] and int8 state their range."""
    values = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    if values.dtype.kind == "f":
        within = bool(values.min() >= 0 and values.max() <= 1)
        return Samples(values, (0.0, 1.0) if within else None, missing=find_missing(values))
    stated: Range | None = full_range(values.dtype) if values.dtype.itemsize == 1 else None
    return Samples(values, stated, missing=find_missing(values))


def _measured(values: NDArray[Any], name: str) -> Ranges:
    """Return the range of an array, (0, 1) for floats.

    Raises:
        UserError: floats have other values.
    """
    extremes = Extremes()
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        if values.dtype.kind == "f":
            _check_fractions(part, name)
        else:
            flat = part.reshape(len(part), -1)
            extremes.add(Samples(flat, missing=find_missing(flat)))
    return extremes.ranges() if values.dtype.kind != "f" else {values.dtype.name: (0.0, 1.0)}


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


def _check_fractions(values: NDArray[Any], name: str) -> None:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return
    if np.isnan([low, high]).any():
        found, remedy = "NaN", "scale them"
    else:
        found = f"values from {low:g} to {high:g}"
        remedy = "leave out what normalises them" if low < 0 else "scale them"
    raise UserError(
        f"{name} contains {found}, but float images must be between 0 and 1: {remedy}, or say what is black and white "
        "with --data.range LOW HIGH (settings={'data.range': (low, high)} in Python)."
    )


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
