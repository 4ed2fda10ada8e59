"""TIFF as scientific programs write it: types, compressions, planes, tags."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from corpus_kind import (
    HEIGHT,
    LOSSY,
    TURNED,
    WIDTH,
    Kind,
    Shows,
    grey,
    picture,
    rgb,
    values_of,
)

_COMPRESSIONS = ("none", "lzw", "zlib", "packbits", "zstd", "lzma", "lerc", "jpegxl", "jpeg2000", "png", "webp", "jpeg")


def _tif(values: Shaped[np.ndarray, "..."], **options: Any) -> bytes:
    import tifffile

    file = io.BytesIO()
    options.setdefault("metadata", None)
    compression = options.pop("compression", "none")
    big, order = options.pop("bigtiff", False), options.pop("byteorder", "<")
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order, **options.pop("writer", {})) as writer:
        writer.write(values, compression=None if compression == "none" else compression, **options)
    return file.getvalue()


def _of_type(name: str, colour: bool) -> tuple[Shaped[np.ndarray, "..."], int]:
    """The picture as an array of a type, and the bits of it."""
    dtype = np.dtype(name)
    bits = dtype.itemsize * 8
    if dtype.kind == "f":
        values: Shaped[np.ndarray, "..."] = picture() if colour else grey(16) / 65535
        return values.astype(dtype), bits
    signed = dtype.kind == "i"
    depth = min(bits, 32) - signed
    return (rgb(depth) if colour else grey(depth)).astype(dtype), bits


def _tiff() -> Iterator[Kind]:
    for name in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"):
        for colour in (False, True):
            values, bits = _of_type(name, colour)
            mode, photometric = ("RGB", "rgb") if colour else ("L", "minisblack")
            # How signed and floating-point colours are to be scaled is for the reader to say.
            shows: Shows = ("colour" if name[0] == "u" else "unknown") if colour else "grey"
            shows = "unknown" if name[0] == "i" or name == "u4" else shows
            few = name in ("u1", "u2", "f4")
            for compression in _COMPRESSIONS if few else ("none", "zlib"):
                if compression in ("jpeg", "webp") and (name != "u1" or (compression == "webp" and not colour)):
                    continue
                if (compression, name) in (("png", "f4"), ("jpeg2000", "f4"), ("packbits", "u2"), ("packbits", "f4")):
                    continue
                encode = _tiff_writer(values, photometric=photometric, compression=compression)
                yield Kind("TIFF", mode, bits, f"{name} {compression}", ".tif", encode, shows, LOSSY)
            encode = _tiff_writer(values, photometric=photometric, byteorder=">")
            yield Kind("TIFF", mode, bits, f"{name} big-endian", ".tif", encode, shows)
            encode = _tiff_writer(values, photometric=photometric, tile=(16, 16))
            yield Kind("TIFF", mode, bits, f"{name} tiles", ".tif", encode, shows)
            encode = _tiff_writer(values, photometric=photometric, compression="zlib", predictor=True)
            yield Kind("TIFF", mode, bits, f"{name} zlib predictor", ".tif", encode, shows)
            if colour:
                planes = np.ascontiguousarray(values.transpose(2, 0, 1))
                encode = _tiff_writer(planes, photometric=photometric, planarconfig="separate")
                yield Kind("TIFF", mode, bits, f"{name} planar", ".tif", encode, shows)


def _tiff_writer(values: Shaped[np.ndarray, "..."], **options: Any) -> Callable[[], bytes]:
    return lambda: _tif(values, **options)


def _kind(
    mode: str, bits: int, tag: str, values: Shaped[np.ndarray, "..."], shows: Shows, suffix: str = ".tif", **o: Any
) -> Kind:
    return Kind("TIFF", mode, bits, tag, suffix, _tiff_writer(values, **o), shows, LOSSY)


def _tiff_tags() -> Iterator[Kind]:
    for bits in (8, 16):
        top = 2**bits - 1
        yield _kind("L", bits, "min is white", top - grey(bits), "grey", photometric="miniswhite")
        indices, colours = _palette(bits)
        yield _kind("P", bits, "colour map", indices, "few colours", photometric="palette", colormap=colours)
        for associated, name in ((True, "assocalpha"), (False, "unassalpha")):
            for mode in ("LA", "RGBA"):
                values = values_of(mode, bits)
                if associated:
                    values = values * (values[..., -1:] > 0)
                grey_or_rgb = "minisblack" if mode == "LA" else "rgb"
                extra: dict[str, Any] = {"photometric": grey_or_rgb, "extrasamples": [name], "planarconfig": "contig"}
                yield _kind(mode, bits, name, values, "grey hole" if mode == "LA" else "hole", **extra)
        ink = np.concatenate([top - rgb(bits), np.zeros((HEIGHT, WIDTH, 1), rgb(bits).dtype)], -1)
        yield _kind("CMYK", bits, "tifffile", ink, "colour", photometric="separated")
        planes = np.ascontiguousarray(ink.transpose(2, 0, 1))
        yield _kind("CMYK", bits, "planar", planes, "colour", photometric="separated", planarconfig="separate")
        marked = grey(bits).copy()
        marked[:, -12:] = 0
        yield _kind("L", bits, "no data", marked, "unknown", extratags=[(42113, "s", 0, "0", True)])
    for bits in (9, 10, 12, 14):
        limits = [(280, "H", 1, 0, True), (281, "H", 1, 2**bits - 1, True)]
        yield _kind("L", 16, f"{bits} bits with limits", grey(bits), "grey", photometric="minisblack", extratags=limits)
        yield _kind("L", 16, f"{bits} bits without limits", grey(bits), "unknown", photometric="minisblack")
    for bits in (1, 2, 4):
        shows: Shows = "black and white" if bits == 1 else "unknown"
        values = (grey() > 127) if bits == 1 else grey(bits)
        yield _kind("L", bits, "bit samples", values, shows, photometric="minisblack", bitspersample=bits)
    for bits in (10, 12, 14):
        yield _kind("L", bits, "packed bits", grey(bits), "grey", photometric="minisblack", bitspersample=bits)
    yield _kind("RGB", 8, "BigTIFF", rgb(), "colour", bigtiff=True, photometric="rgb")
    yield _kind("L", 16, "BigTIFF", grey(16), "grey", bigtiff=True, photometric="minisblack")
    yield _kind("L", 16, "ImageJ", grey(16), "grey", writer={"imagej": True}, metadata={})
    yield _kind("L", 16, "OME", grey(16), "grey", ".ome.tif", writer={"ome": True}, metadata={})
    yield _kind("RGB", 8, "OME", rgb(), "colour", ".ome.tiff", writer={"ome": True}, metadata={}, photometric="rgb")
    stack = np.stack([grey(16)] * 5)
    yield _kind("L", 16, "stack", stack, "grey", photometric="minisblack")
    yield _kind("L", 16, "ImageJ stack", stack, "grey", writer={"imagej": True}, metadata={"axes": "ZYX"})
    yield _kind("RGB", 8, "no suffix", rgb(), "colour", "", photometric="rgb")


def _tiff_turned() -> Iterator[Kind]:
    for bits, orientation, colour in itertools.product((8, 16), TURNED, (False, True)):
        mode, photometric = ("RGB", "rgb") if colour else ("L", "minisblack")
        values = _stored_array(rgb(bits) if colour else grey(bits), orientation)
        shows: Shows = "colour" if colour else "grey"
        tag = [(274, "H", 1, orientation, True)]
        yield _kind(
            mode,
            bits,
            f"tifffile orientation {orientation}",
            values,
            shows,
            photometric=photometric,
            extratags=tag,
        )


def _stored_array(values: Shaped[np.ndarray, "h w ..."], orientation: int) -> Shaped[np.ndarray, "..."]:
    over: dict[int, Callable[[Any], Any]] = {
        1: lambda v: v,
        2: lambda v: v[:, ::-1],
        3: lambda v: v[::-1, ::-1],
        4: lambda v: v[::-1],
        5: lambda v: v.swapaxes(0, 1),
        6: np.rot90,
        7: lambda v: v.swapaxes(0, 1)[::-1, ::-1],
        8: lambda v: np.rot90(v, -1),
    }
    return np.ascontiguousarray(over[orientation](values))


def _palette(bits: int) -> tuple[Shaped[np.ndarray, "h w"], Shaped[np.ndarray, "3 n"]]:
    """Indices into a table of up to 256 colours, spread over all of the index's values, and the table."""
    few = Image.fromarray(rgb()).quantize(256)
    table = np.zeros((256, 3), np.uint16)
    found = np.array(few.getpalette()).reshape(-1, 3) * 257
    table[: len(found)] = found
    index = np.asarray(few)
    if bits == 8:
        return index, np.ascontiguousarray(table.T)
    return index.astype(np.uint16) * 257, np.ascontiguousarray(np.repeat(table, 256, 0).T)


FAMILIES: tuple[Callable[[], Iterator[Kind]], ...] = (_tiff, _tiff_tags, _tiff_turned)
"""Each iterates over the kinds of a container."""
