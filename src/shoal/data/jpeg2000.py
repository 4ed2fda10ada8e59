"""JPEG 2000 of other than 8 bits a sample, which Pillow shifts to 8: white below 8 bits, and wrong colours above."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shoal.data.greys import Samples, full_range
from shoal.data.tiff import MissingReaderError

_SIZE = b"\xff\x4f\xff\x51"
"""Start of the code stream, and of the segment SIZ, which always follows (ISO/IEC 15444-1, A.5.1)."""
_N_CHANNELS_AT, _CHANNELS_AT = 40, 42


def depths_of(data: bytes) -> tuple[int, ...]:
    """Bits per sample of each channel; () where the file has no header of a code stream."""
    at = data.find(_SIZE)
    if at < 0 or len(data) < at + _CHANNELS_AT:
        return ()
    n = int.from_bytes(data[at + _N_CHANNELS_AT : at + _CHANNELS_AT])
    return tuple((depth & 0x7F) + 1 for depth in data[at + _CHANNELS_AT : at + _CHANNELS_AT + 3 * n : 3])


def fix_depth(image: Image.Image, data: bytes) -> Image.Image | Samples:
    """Make white 255 where samples have fewer than 8 bits, and read colours of more again.

    Args:
        image: what Pillow has made of the file, of 8 bits a sample.
        data: the file.

    Raises:
        MissingReaderError: colours of more than 8 bits need the extra ``formats``.
    """
    depths = depths_of(data)
    if depths and max(depths) > 8:
        return _samples(data, max(depths))
    if depths and min(depths) < 8 and len(depths) == len(image.getbands()) and image.mode != "P":
        table: list[int] = []
        for depth in depths:
            white = 256 - 2 ** (8 - depth)
            table += [min(255, round(value * 255 / white)) for value in range(256)]
        return image.point(table)
    return image


def _samples(data: bytes, depth: int) -> Samples:
    """The samples; only of a file that Pillow has read."""
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingReaderError(
            f"a JPEG 2000 with colours of {depth} bits, which needs pip install 'shoal[formats]'"
        ) from error
    values: NDArray[np.uint16] = np.atleast_3d(imagecodecs.jpeg2k_decode(data))
    stated, alpha = full_range(values.dtype, depth), None
    if values.shape[2] in (2, 4):
        alpha, values = (values[..., -1] >> (depth - 8)).astype(np.uint8), values[..., :-1]
    return Samples(values[..., 0] if values.shape[2] == 1 else values, stated, alpha)
