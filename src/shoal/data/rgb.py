"""From what a file was opened as to RGB pixels: samples, transparency and orientation as its header means them."""

from __future__ import annotations

import contextlib

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageCms

from shoal.data import tiff, tiff_tags
from shoal.data.greys import Samples, Scale, find_missing, full_range, to_8_bits
from shoal.data.jpeg2000 import fix_depth
from shoal.data.repair import ORIENTATION, png_depth, repaired, significant_bits

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits to mode RGB, transparency on white."""
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    if image.mode == "La":  # Pillow has no way from it to RGBA
        image = image.convert("LA")
    if image.has_transparency_data or image.mode == "RGBa":
        rgba = image.convert("RGBA")
        page = Image.new("RGB", image.size, "white")
        page.paste(rgba, mask=rgba.getchannel("A"))
        return page
    return image.convert("RGB")


def samples_to_rgb(samples: Samples, scale: Scale) -> Image.Image:
    """Scale samples of more than 8 bits to mode RGB, transparency on white."""
    image = Image.fromarray(to_8_bits(samples, scale.range_of(samples))).convert("RGB")
    if samples.alpha is None:
        return image
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=Image.fromarray(samples.alpha))
    return page


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


def interpret(
    image: Image.Image, data: bytes, layout: tiff_tags.Layout | None, largest: int | None
) -> Image.Image | Samples:
    """Apply what Pillow has read but not applied."""
    if layout is not None:
        if image.mode[0] in "IF" or (layout.is_deep and not layout.is_plain_color):
            return tiff.as_samples(np.asarray(image), layout)
        return tiff.fix_palette(image, layout)
    if image.mode[0] not in "IF":
        return _of_8_bits(image, data)
    values = np.asarray(image)
    if png_depth(data):
        return _png_samples(values.astype(np.uint16), image.info.get("transparency"), data)
    if largest is not None:  # Pillow has scaled the values to 16 bits
        return Samples(np.rint(values * (largest / 65535)).astype(np.uint16), (0.0, float(largest)))
    stated = (0.0, 65535.0) if image.mode.startswith("I;16") else None  # other plugins scale to the full range
    return Samples(values, stated, missing=find_missing(values))


def _of_8_bits(image: Image.Image, data: bytes) -> Image.Image | Samples:
    """An image that Pillow has brought to 8 bits, or its samples where they had more."""
    if image.format == "JPEG2000":
        return fix_depth(image, data)
    samples = _deep_png(data) if png_depth(data) > 8 else None
    return samples or _fix_transparent(image, data)


def _png_samples(values: NDArray[np.uint16], transparent: object, data: bytes) -> Samples:
    """Samples of a 16-bit PNG, grey, RGB, or either with a channel of opacity."""
    alpha = None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        alpha, values = (values[..., -1] >> 8).astype(np.uint8), values[..., :-1]
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if transparent is not None and alpha is None:
        same = values == np.asarray(transparent)
        alpha = np.where(same.all(-1) if values.ndim == 3 else same, 0, 255).astype(np.uint8)
    bits = significant_bits(data)
    stated = None
    if 0 < bits < 16:  # by the standard the samples are scaled up; many writers leave them as they were
        stated = full_range(values.dtype, bits if int(values.max()) < 2**bits else 16)
    return Samples(values, stated, alpha)


def _deep_png(data: bytes) -> Samples | None:
    """Read a 16-bit PNG of several channels, of which Pillow keeps the upper bytes; None without imagecodecs.

    Only a file that Pillow has read: imagecodecs loses a reference to None with each that it refuses, and then crashes.
    """
    try:
        import imagecodecs
    except ImportError:
        return None
    values: NDArray[np.uint16] = imagecodecs.png_decode(repaired(data) or data)
    return _png_samples(values, None, data)


def _fix_transparent(image: Image.Image, data: bytes) -> Image.Image:
    """Scale the transparent value of a PNG of 2, 4 or 16 bits as Pillow has scaled its samples."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and png_depth(data) > 8:  # of which Pillow has kept the upper bytes
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.mode == "L" and isinstance(transparent, int) and png_depth(data) in (2, 4):
        image.info["transparency"] = transparent * 255 // (2 ** png_depth(data) - 1)
    return image


def largest_of_ppm(image: Image.Image) -> int | None:
    """The value of white that the header of a deep PGM states."""
    if image.format != "PPM" or image.mode[0] != "I":
        return None
    tile = getattr(image, "tile", None)
    arguments = tile[0].args if tile else None
    return int(arguments[-1]) if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 65535


def orientation_of(image: Image.Image) -> int:
    """The orientation that is still to be applied; 1 where EXIF is malformed."""
    with contextlib.suppress(Exception):
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Bring an image upright, by the number of its EXIF tag."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)
