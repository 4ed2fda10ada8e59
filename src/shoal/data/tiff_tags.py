"""TIFF: what its tags say of the pixels of its first image.

Tags and their numbers: TIFF 6.0; GDAL_NODATA: GDAL's GeoTIFF driver.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from shoal.data.greys import Range, full_range

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
LZW = 5
DAMAGED_TAGS = "damaged TIFF tags"
"""The reason where they cannot be read, or not without doubt."""
_BY_PILLOW = (1, 2, 3, 4, LZW, 6, 7, 8, 32773, 32946)  # compressions that every Pillow decompresses
_DENSEST = 2**16  # bytes that one may stand for where a file is compressed; zstd and LZMA reach some ten thousand
_MAX_BYTES = 2**31  # of one decoded image


class UnsupportedTiffError(Exception):
    """A kind of TIFF that nobody here reads right; the message names it."""


@dataclass(frozen=True)
class Layout:
    """How a TIFF stores its first image."""

    width: int
    height: int
    bits: int
    """Per sample; 0 if samples differ."""
    n_samples: int
    sample_format: int
    photometric: int
    planar: bool
    """Each channel stands by itself."""
    extra: tuple[int, ...]
    """Kinds of the channels beyond the colours: 1 premultiplied alpha, 2 alpha, 0 unknown."""
    compression: int
    orientation: int
    little: bool
    stated: Range | None
    """The range by MinSampleValue and MaxSampleValue, or by an odd number of bits."""
    no_data: float | None
    color_map: tuple[int, ...]

    @property
    def n_colors(self) -> int:
        """Channels of colour by the photometric interpretation."""
        return {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3}.get(self.photometric, 1)

    @property
    def is_deep(self) -> bool:
        """Whether samples have more than 8 bits, or a sign."""
        return self.bits > 8 or self.sample_format != UNSIGNED

    @property
    def kind(self) -> str:
        """Type of the samples by NumPy's name if they have more than 8 bits, else ""."""
        if self.bits <= 8:
            return ""
        name = {UNSIGNED: "uint", SIGNED: "int", FLOAT: "float"}.get(self.sample_format, "")
        return f"{name}{next((bits for bits in (16, 32) if self.bits <= bits), 64)}"

    @property
    def may_lack_codec(self) -> bool:
        """Whether Pillow may fail because it cannot decompress this, and not because the file is damaged."""
        return self.compression not in _BY_PILLOW

    @property
    def is_plain_color(self) -> bool:
        """Whether Pillow reads at least the upper bytes right: 16-bit colours side by side."""
        plain = self.bits == 16 and self.sample_format == UNSIGNED and not self.planar
        return plain and self.photometric in (RGB, CMYK)


def is_tiff(data: bytes) -> bool:
    """Tell a TIFF by its first bytes."""
    return data[:4] in MAGIC


def check_size(layout: Layout, n_bytes: int) -> None:
    """Refuse what a file of this many bytes cannot hold, before memory is taken for it.

    Raises:
        MemoryError: the image is too large.
        OSError: the file is too short for it.
    """
    n_samples = 1 if layout.photometric == YCBCR else layout.n_samples  # chroma may have fewer pixels
    claimed = layout.width * layout.height * n_samples * layout.bits // 8
    if claimed > _MAX_BYTES:
        raise MemoryError
    if claimed > (n_bytes if layout.compression == 1 else _DENSEST * n_bytes):
        raise OSError("truncated")


def layout_of(data: bytes) -> Layout:
    """Read the tags of the first image.

    Raises:
        UnsupportedTiffError: they are damaged, or belong to no image.
    """
    try:
        return _layout(data)
    except UnsupportedTiffError:
        raise
    except Exception as error:  # Pillow raises whatever its parsing stumbles over
        raise UnsupportedTiffError(DAMAGED_TAGS) from error


def _layout(data: bytes) -> Layout:
    file = BytesIO(data)
    head = file.read(8)
    if head[2:4] in (b"+\0", b"\0+"):
        head += file.read(8)
    tags: Any = ImageFileDirectory_v2(head)
    file.seek(tags.next)
    tags.load(file)

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)

    width, height = number(256, 0), number(257, 0)
    if width <= 0 or height <= 0:
        raise UnsupportedTiffError("a TIFF without an image")
    depths, formats = _tuple(tags.get(258, (1,))), _tuple(tags.get(339, (1,)))
    bits = int(depths[0]) if len(set(depths)) == 1 else 0
    n_samples = number(277, 1)
    sample_format = int(formats[0]) if len(set(formats)) == 1 else 0
    return Layout(
        width=width,
        height=height,
        bits=bits,
        n_samples=n_samples,
        sample_format=1 if sample_format == 4 else sample_format,  # 4: "undefined"
        photometric=number(262, WHITE_IS_ZERO),
        planar=number(284, 1) == 2,
        extra=tuple(int(kind) for kind in _tuple(tags.get(338, ()))),
        compression=number(259, 1),
        orientation=number(274, 1),
        little=head[:1] == b"I",
        stated=_stated(tags, bits, sample_format),
        no_data=_no_data(tags),
        color_map=tuple(int(entry) for entry in _tuple(tags.get(320, ()))),
    )


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _stated(tags: Any, bits: int, sample_format: int) -> Range | None:
    """The range by the tags: 12 bits have one, and 16 or more where the smallest and largest values are given."""
    dtype = np.dtype("i2" if sample_format == SIGNED else "u2")
    if sample_format in (UNSIGNED, SIGNED) and 0 < bits < 16:
        return full_range(dtype, bits)
    largest, smallest = (tags.get(341, tags.get(281)), tags.get(340, tags.get(280)))
    if largest is None:
        return None
    high, low = float(max(_tuple(largest))), float(min(_tuple(0 if smallest is None else smallest)))
    if sample_format == FLOAT:
        return (low, high) if smallest is not None and low < high else None
    if sample_format != UNSIGNED or not 1 < high < 2**bits:
        return None
    # Some writers give what an image holds, not what it may hold; images of one camera must keep one scale.
    return 0.0, float(2 ** int(high).bit_length() - 1)


def _no_data(tags: Any) -> float | None:
    with contextlib.suppress(ValueError):
        return float(str(tags[42113]).strip(" \0")) if 42113 in tags else None
    return None


def in_words(layout: Layout) -> str:
    """What kind of TIFF it is, for people to read."""
    kind = {SIGNED: "signed ", FLOAT: "floating-point "}.get(layout.sample_format, "")
    color = {RGB: "RGB", PALETTE: "colour-map", CMYK: "CMYK", YCBCR: "YCbCr", LAB: "L*a*b*"}
    where = "planar " if layout.planar and layout.n_samples > 1 else ""
    return f"a {where}{layout.bits}-bit {kind}{color.get(layout.photometric, 'grey')} TIFF"
