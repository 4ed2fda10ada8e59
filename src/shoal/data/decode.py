"""Decoding one image file to RGB pixels. Broken files raise ``UnreadableError`` with a short reason (``open_rgb``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from threading import Lock

import numpy as np
from jaxtyping import Float64, Shaped, UInt8
from PIL import Image, ImageCms, UnidentifiedImageError

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
"""File extensions and the names of their formats in Pillow.

Files are opened as these formats only, because some of Pillow's others start external programs (EPS).
"""

_STRIP = 2**18  # grey pixels that are scaled at a time
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


NO_MEMORY = "too large for the memory"
"""The reason for a MemoryError."""

_LARGE = 2**25
"""Images with more pixels are decoded one at a time: in all threads at once, they would fill the memory."""
_one_at_a_time = Lock()


class UnreadableError(Exception):
    """An image cannot be read; the message is the reason in a few words."""


def decode(data: bytes, size: int | None = None) -> UInt8[np.ndarray, "3 h w"]:
    """Decode an image file to RGB: its first frame, rotated by its EXIF orientation, transparency on white.

    With ``size``, the short side is resized to that many pixels (antialiased) and the central square is cropped.

    Raises:
        UnreadableError: the data is not an image, is damaged, or has so many pixels by its header (Pillow's limit, 179
            million) that it may be a decompression bomb.
    """
    # From 3 × the size on, the loss of a reduced JPEG is invisible.
    rgb = open_rgb(data, None if size is None else 3 * size)
    return to_array(rgb if size is None else centre_square(rgb, size))


def open_rgb(data: bytes, min_side: int | None = None) -> Image.Image:
    """Decode an image file as ``decode`` does, to a Pillow image.

    With ``min_side``, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as long as both sides
    keep that many pixels.

    Raises:
        UnreadableError: as in ``decode``. This is where every failure of Pillow, such as on a truncated JPEG, becomes a
            reason.
    """
    if not data:
        raise UnreadableError("empty file")
    try:
        with Image.open(BytesIO(data), formats=_formats()) as image:
            if min_side is not None:
                image.draft(None, (min_side, min_side))
            with _one_at_a_time if image.width * image.height > _LARGE else contextlib.nullcontext():
                return to_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise UnreadableError("too many pixels, perhaps a decompression bomb") from error
    except UnidentifiedImageError as error:
        raise UnreadableError(_reason_unidentified(data)) from error
    except MemoryError as error:
        raise UnreadableError(NO_MEMORY) from error
    except Exception as error:  # depends on the format: SyntaxError, struct.error, EOFError
        reason = "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"
        raise UnreadableError(reason) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to mode RGB: transparency on white, greys of more than 8 bits scaled, not clipped."""
    if image.mode[0] in "IF":
        return Image.fromarray(_grey8(np.asarray(image), image.mode)).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(rgba, mask=rgba.getchannel("A"))
        return page
    return image.convert("RGB")


def centre_square(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to ``size`` pixels and crop the central square."""
    width, height = image.size
    if width == height == size:
        return image
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def resized(pixels: UInt8[np.ndarray, "3 h w"], size: int) -> UInt8[np.ndarray, "3 {size} {size}"]:
    """Resize pixels to a square as ``decode`` does."""
    return to_array(centre_square(to_pillow(pixels), size))


def to_pillow(pixels: UInt8[np.ndarray, "3 h w"]) -> Image.Image:
    """Make an RGB image of Pillow's."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def to_array(image: Image.Image) -> UInt8[np.ndarray, "3 h w"]:
    """Copy the pixels of an RGB image of Pillow's, channels first."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


@cache
def _formats() -> tuple[str, ...]:
    Image.init()  # AVIF is not in every build of Pillow
    return tuple(name for name in dict.fromkeys(FORMATS.values()) if name in Image.OPEN)


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def _grey8(values: Shaped[np.ndarray, "h w"], mode: str) -> UInt8[np.ndarray, "h w"]:
    """Scale greys of 16 or 32 bits to 8.

    The 32-bit modes have no standard range: take the smallest usual one that holds the values, else the image's own.
    """
    low, high = 0.0, 65535.0
    if not mode.startswith("I;16"):
        least = min(float(strip.min()) for strip in _strips(values))
        most = max(float(strip.max()) for strip in _strips(values))
        ranges = [top for top in (1.0, 255.0, 65535.0) if mode == "F" or top > 1.0]
        fitting = [top for top in ranges if least >= 0 and most <= top]
        low, high = (0.0, fitting[0]) if fitting else (least, most)
    return np.concatenate(
        [np.rint((strip - low) / max(high - low, 1e-12) * 255).astype(np.uint8) for strip in _strips(values)]
    )


def _strips(values: Shaped[np.ndarray, "h w"]) -> Iterator[Float64[np.ndarray, "_ w"]]:
    """Iterate over blocks of rows as float64, to save memory."""
    rows = max(1, _STRIP // values.shape[1])
    for start in range(0, len(values), rows):
        yield np.nan_to_num(values[start : start + rows].astype(np.float64), posinf=0.0, neginf=0.0)


def _reason_unidentified(data: bytes) -> str:
    """Tell images in an unsupported format from other data."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a damaged TIFF, or an unsupported pixel format: save it as 8-bit grey or RGB"
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1"):
        return "HEIC, which is not supported: save it as JPEG"
    return "not an image"
