"""TIFF: reading the kinds that Pillow opens wrongly or not at all.

Pillow ignores min-is-white of 16 bits, the sign of bytes, colour maps of 16-bit indices or 8-bit entries, and the
stated largest value, and it takes planes of 16 bits for 8. ``reader_of`` therefore says by the tags who reads a file:
Pillow, or tifffile (the extra ``formats``), or nobody.
"""

from __future__ import annotations

import logging
import struct
from io import BytesIO
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from shoal.data.greys import Range, Samples, find_missing, full_range
from shoal.data.tiff_tags import (
    BLACK_IS_ZERO,
    CMYK,
    DAMAGED_TAGS,
    FLOAT,
    LAB,
    LZW,
    PALETTE,
    RGB,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
    UnsupportedTiffError,
    in_words,
)

_ASSOCIATED, _UNASSOCIATED = 1, 2
_JPEG_COMPRESSIONS = (6, 7, 34892, 33007)
_ODD_COLOURS = {9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array", 34892: "linear raw colours"}
_ODD_COLOURS |= {32844: "LogL", 32845: "LogLuv", 4: "a transparency mask"}
_MAX_SAMPLES = 16

Reader: TypeAlias = Literal["pillow", "tifffile"]


class MissingReaderError(Exception):
    """A kind of TIFF that an extra would read; the message says which."""


def reader_of(layout: Layout) -> Reader:
    """Say who reads a file of this layout right; Pillow where it can, since it is always there.

    Raises:
        UnsupportedTiffError: nobody does.
    """
    _check_supported(layout)
    if not layout.is_deep and layout.bits in (1, 2, 4, 8):
        extra = layout.n_samples > layout.n_colors
        return "tifffile" if layout.planar and extra else "pillow"
    grey = layout.n_samples == 1 and layout.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
    if grey and (layout.bits, layout.sample_format) in ((8, SIGNED), (16, UNSIGNED), (16, SIGNED), (32, FLOAT)):
        return "pillow"
    return "tifffile"


def read_with_tifffile(data: bytes, layout: Layout) -> Samples | Image.Image:
    """Read the first image: samples of more than 8 bits, or an image of 8 that is not yet turned upright.

    Raises:
        UnsupportedTiffError: nobody reads this kind right, or tifffile reads other tags than the layout has.
        MissingReaderError: the extra ``formats`` is not installed.
        Exception: whatever tifffile raises on a damaged file.
    """
    _check_supported(layout)
    try:
        import tifffile
    except ImportError as error:
        raise MissingReaderError(f"{in_words(layout)}, which needs pip install 'shoal[formats]'") from error
    log = logging.getLogger("tifffile")  # damage becomes a reason; nothing is printed
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    with tifffile.TiffFile(BytesIO(data)) as file:
        page: Any = file.pages[0]
        if not _agrees(page, layout):
            raise UnsupportedTiffError(DAMAGED_TAGS)
        if page.imagedepth > 1:
            raise UnsupportedTiffError(f"a TIFF volume of {page.imagedepth} slices: save its slices as images")
        try:
            values: NDArray[Any] = _by_libtiff(page, data) if layout.compression == LZW else page.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise MissingReaderError(
                    f"a compression that needs pip install 'shoal[formats]' ({page.compression.name})"
                ) from error
            raise
    values = values.reshape(
        (layout.n_samples, layout.height, layout.width)
        if layout.planar and layout.n_samples > 1
        else (layout.height, layout.width, layout.n_samples)
    )
    return _coloured(np.moveaxis(values, 0, -1) if layout.planar and layout.n_samples > 1 else values, layout)


def _agrees(page: Any, layout: Layout) -> bool:
    """Whether tifffile has read the tags that were checked; where some are damaged, each skips others."""
    shape = (page.imagewidth, page.imagelength, page.samplesperpixel)
    same = shape == (layout.width, layout.height, layout.n_samples)
    return same and page.compression == layout.compression and page.bitspersample == layout.bits


def _by_libtiff(page: Any, data: bytes) -> NDArray[Any]:
    """Read an image with LZW compression, whose strips or tiles Pillow's libtiff decompresses.

    imagecodecs' own decompressor crashes on damaged data.
    """
    import tifffile

    page.compression = tifffile.COMPRESSION.NONE  # what tifffile is given is decompressed
    values = np.zeros(page.shaped, page.dtype)
    for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        _, _, (_, rows, columns, samples) = page.decode(None, index, _fullsize=page.is_tiled)
        row_bytes = -(-columns * samples * page.bitspersample // 8)
        plain = _decompress(data[offset : offset + count], row_bytes, rows)
        part, (plane, depth, y, x, sample), _ = page.decode(plain, index)
        part = part[:, : values.shape[2] - y, : values.shape[3] - x]
        n, h, w, s = part.shape
        values[plane, depth : depth + n, y : y + h, x : x + w, sample : sample + s] = part
    return values


def _decompress(data: bytes, width: int, height: int) -> bytes:
    """Decompress LZW: libtiff takes the bytes for a grey image."""
    tags = {
        256: width,
        257: height,
        258: 8,
        259: LZW,
        262: BLACK_IS_ZERO,
        273: 0,
        277: 1,
        278: height,
        279: len(data),
    }
    tags[273] = start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert len(head) == start
    with Image.open(BytesIO(head + data), formats=["TIFF"]) as image:
        return image.tobytes()


def as_samples(values: NDArray[Any], layout: Layout) -> Samples:
    """Samples of a grey image that Pillow has read, (h, w), in the types that Pillow has for them."""
    kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[layout.sample_format]
    if layout.sample_format == SIGNED and layout.bits == 8:
        values = values.view(np.int8)
    elif layout.bits == 12:
        values = values.astype(np.uint16)
    else:
        values = values.astype(f"{kind}{layout.bits // 8}")
    return _grey(values, None, layout)


def fix_palette(image: Image.Image, layout: Layout) -> Image.Image:
    """Give an image of 8-bit indices the palette that was meant: old writers store entries of 8 bits, not 16."""
    if image.mode in ("P", "PA") and layout.color_map and max(layout.color_map) < 256:
        planes = np.array(layout.color_map, np.uint8).reshape(3, -1)
        image.putpalette(planes.T.tobytes(), "RGB")
    return image


def _check_supported(layout: Layout) -> None:
    if layout.n_samples > _MAX_SAMPLES:
        raise UnsupportedTiffError(f"a TIFF of {layout.n_samples} channels: save it as grey or RGB")
    if layout.bits == 0:
        raise UnsupportedTiffError("a TIFF whose channels differ in their bits: save it as grey or RGB")
    if layout.photometric in _ODD_COLOURS:
        raise UnsupportedTiffError(f"a TIFF with {_ODD_COLOURS[layout.photometric]}: save it as grey or RGB")
    if layout.sample_format not in (UNSIGNED, SIGNED, FLOAT):
        raise UnsupportedTiffError("a TIFF of complex numbers or mixed types: save it as grey or RGB")
    unnamed = layout.n_samples - layout.n_colors - len(layout.extra)
    if layout.n_samples < layout.n_colors or (unnamed > 0 and not (layout.photometric == RGB and unnamed == 1)):
        raise UnsupportedTiffError(f"a TIFF of {layout.n_samples} channels without colours: save it as grey or RGB")
    if layout.n_colors == 1 and layout.n_samples > 2:
        raise UnsupportedTiffError(f"a TIFF of {layout.n_samples} channels without colours: save it as grey or RGB")
    if layout.sample_format != UNSIGNED and layout.photometric in (PALETTE, CMYK, YCBCR):
        raise UnsupportedTiffError("a TIFF of signed colours: save it as grey or RGB")


def _coloured(values: NDArray[Any], layout: Layout) -> Samples | Image.Image:
    """Samples or an image of what tifffile has read, (h, w, n_samples)."""
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "uif":
        raise UnsupportedTiffError(f"a TIFF of {values.dtype}: save it as grey or RGB")
    alpha, associated = _alpha(values, layout)
    colors = values[..., : layout.n_colors]
    if layout.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        grey = _unassociated(colors, alpha, layout) if associated else colors
        return _grey(grey[..., 0], _to_byte(alpha, layout), layout)
    if layout.photometric == PALETTE:
        return _with_alpha(_mapped(colors[..., 0], layout), _to_byte(alpha, layout))
    if layout.photometric == CMYK:
        return _with_alpha(Image.fromarray(_byte(colors, layout), "CMYK").convert("RGB"), _to_byte(alpha, layout))
    if layout.photometric == LAB:
        return _lab(colors, layout)
    if layout.photometric == YCBCR and layout.compression not in _JPEG_COMPRESSIONS:
        raise UnsupportedTiffError(f"{in_words(layout)}: save it as grey or RGB")
    rgb = _unassociated(colors, alpha, layout) if associated else colors
    stated = layout.stated or (full_range(rgb.dtype, layout.bits) if layout.bits <= 8 else None)
    return Samples(rgb, _credible(stated, rgb), _to_byte(alpha, layout), find_missing(rgb, layout.no_data))


def _grey(values: NDArray[Any], alpha: UInt8[np.ndarray, "h w"] | None, layout: Layout) -> Samples:
    stated = layout.stated or (full_range(values.dtype, layout.bits) if layout.bits <= 8 else None)
    missing = find_missing(values, layout.no_data)
    return Samples(values, _credible(stated, values), alpha, missing, layout.photometric == WHITE_IS_ZERO)


def _credible(stated: Range | None, values: NDArray[Any]) -> Range | None:
    """The range that the tags state, if the values lie in it."""
    if stated is None or values.dtype.kind == "f":
        return stated
    return stated if values.size and float(values.max()) <= stated[1] and float(values.min()) >= stated[0] else None


def _alpha(values: NDArray[Any], layout: Layout) -> tuple[NDArray[Any] | None, bool]:
    """The channel of opacity, and whether the colours are premultiplied by it."""
    beyond = values.shape[-1] - layout.n_colors
    kinds = layout.extra or ((_UNASSOCIATED,) if layout.photometric == RGB and beyond == 1 else ())
    for number, kind in enumerate(kinds[:beyond]):
        if kind in (_ASSOCIATED, _UNASSOCIATED):
            return values[..., layout.n_colors + number], kind == _ASSOCIATED
    return None, False


def _unassociated(colors: NDArray[Any], alpha: NDArray[Any] | None, layout: Layout) -> NDArray[Any]:
    assert alpha is not None
    opaque = _opaque(alpha, layout)
    plain = colors.astype(np.float64) * (opaque / np.maximum(alpha, opaque / 65535.0).astype(np.float64))[..., None]
    if colors.dtype.kind != "f":
        plain = np.rint(np.clip(plain, *full_range(colors.dtype, layout.bits)))
    straight: NDArray[Any] = plain.astype(colors.dtype)
    return straight


def _opaque(values: NDArray[Any], layout: Layout) -> float:
    return 1.0 if values.dtype.kind == "f" else full_range(values.dtype, layout.bits)[1]


def _byte(values: NDArray[Any], layout: Layout) -> UInt8[np.ndarray, "..."]:
    scaled = values.astype(np.float32) * (255 / _opaque(values, layout))
    found: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return found


def _to_byte(alpha: NDArray[Any] | None, layout: Layout) -> UInt8[np.ndarray, "h w"] | None:
    return None if alpha is None else _byte(alpha, layout)


def _mapped(index: NDArray[Any], layout: Layout) -> Image.Image:
    entries = np.array(layout.color_map, np.uint32).reshape(3, -1).T
    table = (entries if entries.max() < 256 else entries >> 8).astype(np.uint8)
    if int(index.max()) >= len(table):
        raise UnsupportedTiffError("a TIFF whose colour map lacks colours of its image")
    return Image.fromarray(table[index])


def _lab(colors: NDArray[Any], layout: Layout) -> Image.Image:
    """CIE L*a*b* of 8 or 16 bits: L unsigned, a and b signed, as the upper bytes of Pillow's mode LAB."""
    if layout.bits not in (8, 16):
        raise UnsupportedTiffError(f"{in_words(layout)}: save it as grey or RGB")
    upper = (colors.view(f"u{colors.dtype.itemsize}") >> (layout.bits - 8)).astype(np.uint8)
    size = (layout.width, layout.height)
    return Image.frombytes("LAB", size, np.ascontiguousarray(upper).tobytes(), "raw", "LAB")


def _with_alpha(image: Image.Image, alpha: UInt8[np.ndarray, "h w"] | None) -> Image.Image:
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return image
