"""What a kind of file is: the picture in it, how it is written, and what a right reader shows."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

WIDTH, HEIGHT = 48, 36

Shows = Literal["colour", "grey", "black and white", "few colours", "hole", "grey hole", "unknown"]
"""What a right reader shows: the picture, its greys, these rounded to black and white, the picture in few colours, the
picture or its greys with the right quarter transparent (white), or what nobody has agreed on."""

TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the picture is stored under each orientation of EXIF, so that a reader that heeds the tag shows it upright."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: how it is made, and what it shows."""

    container: str
    mode: str
    bits: int
    """Bits of a channel as they are stored."""
    tag: str
    """What else sets it apart: compression, byte order, orientation, …"""
    suffix: str
    encode: Callable[[], bytes]
    shows: Shows = "colour"
    tolerance: float = 3.0
    """Largest right mean difference from the picture, in levels of 255."""
    needs: str = ""
    """The package that writes it, unless it is Pillow, tifffile or imagecodecs."""

    @property
    def name(self) -> str:
        """The name of its file."""
        words = "-".join([self.container, self.mode, str(self.bits), *self.tag.split()])
        return "".join(c if c.isalnum() or c in "-+." else "_" for c in words.lower()) + self.suffix

    @property
    def right(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """What a right reader shows, None where nobody has agreed on it."""
        return None if self.shows == "unknown" else _right(self.shows)


def picture() -> Float[np.ndarray, "h w 3"]:
    """Colours in [0, 1] that tell every turn and mirror image, and every channel, from the others."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([x / (WIDTH - 1), y / (HEIGHT - 1), np.full_like(x, 0.5, float)], -1) * 0.8 + 0.1
    image[2:12, 2:16] = [0.9, 0.15, 0.1]
    image[22:34, 26:34] = [0.1, 0.2, 0.85]
    return image


def rgb(bits: int = 8) -> Shaped[np.ndarray, "h w 3"]:
    """The picture in this many bits, in the smallest type of whole numbers that holds them."""
    return _whole(picture(), bits)


def grey(bits: int = 8) -> Shaped[np.ndarray, "h w"]:
    """Its greys (ITU-R 601-2), likewise."""
    return _whole(picture() @ [0.299, 0.587, 0.114], bits)


def _whole(values: Float[np.ndarray, "..."], bits: int) -> Shaped[np.ndarray, "..."]:
    dtype = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    whole: Shaped[np.ndarray, "..."] = np.rint(values * (2**bits - 1)).astype(dtype)
    return whole


def alpha(bits: int = 8) -> Shaped[np.ndarray, "h w"]:
    """Opaque but for the right quarter."""
    values = np.full((HEIGHT, WIDTH), 2**bits - 1, np.uint8 if bits <= 8 else np.uint16)
    values[:, WIDTH * 3 // 4 :] = 0
    return values


@cache
def _right(shows: Shows) -> UInt8[np.ndarray, "h w 3"]:
    if shows in ("colour", "few colours"):
        return rgb()
    if shows == "hole":
        return np.where(alpha()[..., None] > 0, rgb(), 255).astype(np.uint8)
    values = grey()
    if shows == "grey hole":
        values = np.where(alpha() > 0, values, 255).astype(np.uint8)
    if shows == "black and white":
        values = np.where(values > 127, 255, 0).astype(np.uint8)
    return np.repeat(values[..., None], 3, -1)


def saved(image: Image.Image, container: str, **options: Any) -> bytes:
    """Return the file that Pillow saves."""
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image as it is stored under an orientation."""
    turn = TURNED[orientation]
    return image if turn is None else image.transpose(turn)


def exif(orientation: int) -> bytes:
    """Return EXIF data with nothing but an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def image_of(mode: str) -> Image.Image:
    """The picture in a mode of Pillow's; with a hole where the mode has transparency."""
    if mode in ("L", "1"):
        image = Image.fromarray(grey())
        return image if mode == "L" else image.point(lambda v: 255 * (v > 127), "1")
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(grey()), Image.fromarray(alpha())])
    if mode.startswith("I;16"):
        return Image.fromarray(grey(16).astype(">u2" if mode == "I;16B" else "<u2"))
    if mode in "IF":
        return Image.fromarray(grey(16).astype(np.int32) if mode == "I" else grey().astype(np.float32) / 255)
    if mode == "P":
        return Image.fromarray(rgb()).quantize(256)
    colour = Image.fromarray(rgb())
    if mode == "RGBA":
        colour.putalpha(Image.fromarray(alpha()))
    return colour if mode in ("RGB", "RGBA") else colour.convert(mode)


def shows_of(mode: str) -> Shows:
    """What an image in a mode of Pillow's shows."""
    known: dict[str, Shows] = {"1": "black and white", "LA": "grey hole", "RGBA": "hole", "P": "few colours"}
    return known.get(mode, "grey" if mode[0] in "LIF" and mode != "LAB" else "colour")


def bits_of(mode: str) -> int:
    """Bits of a channel of a mode of Pillow's."""
    return {"1": 1, "I": 32, "F": 32}.get(mode, 16 if mode.startswith("I;16") else 8)


FEW = 12.0
"""Tolerance where colours are few or coarse."""
LOSSY = 8.0
"""Tolerance where a codec or a conversion of colours loses some."""


def plain(container: str, mode: str, tag: str, suffix: str, pillow: str = "", **options: Any) -> Kind:
    """A kind as Pillow saves it."""
    tolerance = FEW if mode == "P" else LOSSY if "lossy" in tag or mode in ("CMYK", "LAB", "YCbCr") else 3.0
    return Kind(
        container,
        mode,
        bits_of(mode),
        tag,
        suffix,
        lambda: saved(image_of(mode), pillow or container, **options),
        shows_of(mode),
        tolerance,
    )


def turned(container: str, suffix: str, mode: str = "RGB", tag: str = "", **options: Any) -> Iterator[Kind]:
    """A kind in all eight orientations of EXIF."""
    for orientation in TURNED:

        def encode(orientation: int = orientation) -> bytes:
            return saved(stored(image_of(mode), orientation), container, exif=exif(orientation), **options)

        name = f"orientation {orientation} {tag}".strip()
        yield Kind(container, mode, bits_of(mode), name, suffix, encode, shows_of(mode), LOSSY)


def named(suffix: str) -> str:
    """A tag for a suffix, other for upper case, since there are disks that do not tell the cases apart."""
    return ("no suffix" if not suffix else f"named {suffix[1:]}") + " in capitals" * suffix[1:].isupper()


def coded(container: str, mode: str, bits: int, tag: str, suffix: str, codec: str, **options: Any) -> Kind:
    """A kind as one of imagecodecs' encoders makes it."""

    def encode() -> bytes:
        import imagecodecs

        return bytes(getattr(imagecodecs, codec)(values_of(mode, bits), **options))

    return Kind(container, mode, bits, tag, suffix, encode, shows_of(mode), LOSSY)


def values_of(mode: str, bits: int) -> Shaped[np.ndarray, "..."]:
    """The picture as an array: L, LA, RGB or RGBA."""
    base = grey(bits)[..., None] if mode[0] == "L" else rgb(bits)
    values = np.concatenate([base, alpha(bits)[..., None]], -1) if mode.endswith("A") else base
    return np.ascontiguousarray(values[..., 0] if mode == "L" else values)
