"""From an image file to the pixels that a network takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from shoal.data.decode import UnreadableError, decode, from_array, open_rgb, resized
from shoal.data.listing import Pixels

_ENOUGH = 2
"""A JPEG may be decoded to 1/2, 1/4 or 1/8 if that leaves so many times the side that it is resized to."""

_LONGEST = 8
"""Images that are longer than so many times their short side are cut before they are resized, not afterwards."""


@runtime_checkable
class Preparing(Protocol):
    """What brings an image to the pixels of a network; ``about`` says how, as timm names it."""

    about: Mapping[str, str]

    def __call__(self, data: bytes | Pixels, /) -> UInt8[np.ndarray, "3 h w"]:
        """Make pixels of a file or of other pixels."""


class TimmPreparing:
    """Resizes and crops as timm does to evaluate a model, and leaves out the normalisation."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is what ``timm.data.resolve_data_config`` gives."""
        from timm.data.transforms_factory import create_transform

        self._transform: Callable[[Image.Image], Any] = create_transform(**config, is_training=False, normalize=False)
        self._least = _ENOUGH * math.ceil(max(config["input_size"][1:]) / config["crop_pct"])
        self._cuts = config["crop_mode"] == "center"
        self.about: Mapping[str, str] = {name: str(config[name]) for name in ("interpolation", "crop_pct", "crop_mode")}

    def __call__(self, data: bytes | Pixels) -> UInt8[np.ndarray, "3 h w"]:
        """Make pixels of a file or of other pixels.

        Raises:
            UnreadableError: the file cannot be decoded.
        """
        image = from_array(data) if isinstance(data, np.ndarray) else open_rgb(data, self._least)
        if self._cuts:
            image = _cut(image)
        pixels: UInt8[np.ndarray, "3 h w"] = self._transform(image).numpy()
        return pixels


class SquarePreparing:
    """Brings images to the size that a run was trained on, as its training did."""

    def __init__(self, size: tuple[int, int]) -> None:
        """``size`` is height and width in pixels."""
        self._size = size
        self._square = size[0] if size[0] == size[1] else None
        self.about: Mapping[str, str] = {"interpolation": "bilinear", "crop_pct": "1.0", "crop_mode": "center"}

    def __call__(self, data: bytes | Pixels) -> UInt8[np.ndarray, "3 h w"]:
        """Make pixels of a file or of other pixels.

        Raises:
            UnreadableError: the file cannot be decoded, or the run's images were not square and this has another size.
        """
        if isinstance(data, bytes):
            pixels = decode(data, self._square)
        else:
            pixels = data if self._square is None else resized(data, self._square)
        if pixels.shape[1:] != self._size:
            found, trained = (" × ".join(map(str, size)) for size in (pixels.shape[1:], self._size))
            raise UnreadableError(f"{found} px, and the run was trained on {trained} px")
        return pixels


def _cut(image: Image.Image) -> Image.Image:
    """Keep the centre of a very long image: whole, one of 1 × 5000 px would take a gigabyte once it is resized."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))
