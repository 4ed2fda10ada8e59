"""A few bytes of each image from which its copies are told: what it looks like, and how good a copy it is itself."""

from __future__ import annotations

import contextlib
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from shoal.data.greys import Samples

SIDE = 16
"""Edge of the grey thumbnail; 8 px would no longer tell handwritten digits apart, see benchmarks/LOG.md."""

COLOUR_SIDE = 4

SKETCH = np.dtype(
    [
        ("luma", "u1", (SIDE, SIDE)),
        ("chroma", "u1", (2, COLOUR_SIDE, COLOUR_SIDE)),
        ("width", "<u4"),
        ("height", "<u4"),
        ("bytes", "<u8"),
        ("sharpness", "<f4"),
    ]
)
"""A grey and a coarser colour thumbnail (YCbCr) of the whole image, its size in pixels and bytes, and its sharpness.

A width of 0: not known.
"""

_GAP = 3.0  # Pillow may shrink a large image by whole factors first, to this many times the thumbnail
_JPEG = b"\xff\xd8"


def sketch(
    image: Image.Image, data: bytes | UInt8[np.ndarray, "3 h w"] | Samples, prepared: UInt8[np.ndarray, "3 h w"]
) -> bytes:
    """Sketch an image, as the bytes of a ``SKETCH``.

    Args:
        image: whole and upright, in RGB, perhaps decoded at a part of its size.
        data: the file, the pixels, or the samples.
        prepared: the image at the size that the network takes, at which sharpness is compared.
    """
    stored = data.values if isinstance(data, Samples) else data
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=_GAP).convert("YCbCr")
    planes = np.asarray(small, np.float32).transpose(2, 0, 1)
    found = np.zeros((), SKETCH)
    found["luma"] = planes[0]
    cell = SIDE // COLOUR_SIDE
    found["chroma"] = np.rint(planes[1:].reshape(2, COLOUR_SIDE, cell, COLOUR_SIDE, cell).mean((2, 4)))
    found["width"], found["height"] = _full_size(image, stored)
    found["bytes"] = len(stored) if isinstance(stored, bytes) else stored.nbytes
    found["sharpness"] = sharpness(prepared)
    return found.tobytes()


def sharpness(pixels: UInt8[np.ndarray, "3 h w"]) -> float:
    """Mean absolute Laplacian of the green channel, relative to its standard deviation, so that contrast has no part.

    One of the focus measures that Pertuz, Puig and Garcia (2013) compare. It has a meaning between versions of one
    image that were brought to the same size.
    """
    green = pixels[1].astype(np.int16)
    if min(green.shape) < 3:
        return 0.0
    inner = green[1:-1, 1:-1]
    laplacian = 4 * inner - green[:-2, 1:-1] - green[2:, 1:-1] - green[1:-1, :-2] - green[1:-1, 2:]
    return float(np.abs(laplacian).mean() / (green.std() + 1))


def _full_size(image: Image.Image, data: bytes | NDArray[Any]) -> tuple[int, int]:
    """Width and height of an image, of which only a JPEG is decoded at a part of its size."""
    size = image.size
    if isinstance(data, bytes) and data.startswith(_JPEG):
        with contextlib.suppress(Exception), Image.open(BytesIO(data), formats=("JPEG",)) as file:
            turned = (file.width > file.height) != (image.width > image.height)
            return (file.height, file.width) if turned else file.size
    return size
