"""Kinds of image files (container × mode × depth × tag), read by shoal and by libvips: do they show the same?

    python benchmarks/decoders.py          # needs pip install 'shoal[dev]'

Every file is written here, from the same picture. libvips gives the samples that a file stores; those of more than 8
bits are brought to 8 by the range that the kind has by its definition, so that the scale is judged as well.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image

from shoal.data.decode import UnreadableError, decode

WIDTH, HEIGHT = 48, 32
ORDERS = ("<", ">")
AGREES = 3.0
"""Mean difference of 255 up to which two pictures are the same: LAB, YCbCr and CMYK are converted by other formulae."""

Values = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """A file, and the values of its samples that are black and white (None: 8 bits)."""

    name: str
    data: bytes
    ends: tuple[float, float] | None = None
    opaque: bool = False
    """Its fourth channel says nothing of opacity, whatever libvips takes it for."""


def picture(channels: int) -> NDArray[np.float64]:
    """Smooth colours in [0, 1], (h, w, channels), no two channels alike, that reach both ends; the same each time."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [x / (WIDTH - 1), y / (HEIGHT - 1), 1 - x / (WIDTH - 1), (x + y) / (WIDTH + HEIGHT - 2)]
    return np.stack([waves[channel % 4] for channel in range(channels)], -1)


def quantised(values: NDArray[np.float64], dtype: str, bits: int = 0) -> Values:
    """The picture in a type of numbers: over ``bits`` of it, floats as they are."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        plain: Values = values.astype(kind)
        return plain
    bits = bits or 8 * kind.itemsize
    low = 0 if kind.kind == "u" else -(2 ** (bits - 1))
    whole: Values = (np.rint(values * (2**bits - 1)) + low).astype(kind)
    return whole


def ends_of(dtype: str, bits: int = 0) -> tuple[float, float] | None:
    """The range of a type, or of the bits of it that are used."""
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return None
    if kind.kind == "f":
        return 0.0, 1.0
    bits = bits or 8 * kind.itemsize
    return (0.0, 2.0**bits - 1) if kind.kind == "u" else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def tiff(values: Values, **options: Any) -> bytes:
    """A TIFF by tifffile."""
    file = io.BytesIO()
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(values, -1, 0)
    tifffile.imwrite(file, values, **{"metadata": None, "software": False, **options})
    return file.getvalue()


def by_pillow(image: Image.Image, container: str, **options: Any) -> bytes:
    """A file by Pillow."""
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def png(values: Values, chunks: bytes = b"", depth: int = 0) -> bytes:
    """A PNG of any colour type and depth, with more chunks before its pixels."""
    bits = depth or 8 * values.dtype.itemsize
    color = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    flat = values.reshape(HEIGHT, -1)
    if bits < 8:
        parts = flat.reshape(HEIGHT, -1, 8 // bits).astype(np.uint8)
        shifts = np.arange(8 // bits)[::-1] * bits
        flat = (parts << shifts.astype(np.uint8)).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.astype(f">u{max(bits // 8, 1)}").tobytes() for row in flat)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color, 0, 0, 0)
    parts_of_file = [chunk(b"IHDR", head), chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts_of_file)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff_kinds() -> Iterator[Kind]:
    """TIFFs: colours, depths, planes, byte orders, compressions, opacity, colour maps, ranges in tags."""
    yield from _types()
    yield from _colors()
    yield from _compressions()
    yield from _tags()
    yield from _by_libtiff()


def _types() -> Iterator[Kind]:
    types = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
    for dtype, order, white in itertools.product(types, ORDERS, ("minisblack", "miniswhite")):
        values = quantised(picture(1), dtype)[..., 0]
        if white == "miniswhite" and dtype != "uint8" and dtype != "uint16":
            continue  # what the largest value of the others is, readers disagree
        yield Kind(f"tiff {dtype} {order} {white}", tiff(values, byteorder=order, photometric=white), ends_of(dtype))


def _colors() -> Iterator[Kind]:
    for dtype, order, planes in itertools.product(("uint8", "uint16", "float32"), ORDERS, ("contig", "separate")):
        settings = {"byteorder": order, "planarconfig": planes}
        rgb = quantised(picture(3), dtype)
        yield Kind(f"tiff rgb {dtype} {order} {planes}", tiff(rgb, photometric="rgb", **settings), ends_of(dtype))
        if dtype == "float32":
            continue
        for extra in ("unspecified", "assocalpha", "unassalpha"):
            rgba = picture(4)
            rgba[..., 3] = 0.25 + 0.75 * rgba[..., 3]
            if extra == "assocalpha":
                rgba[..., :3] *= rgba[..., 3:]
            data = tiff(quantised(rgba, dtype), photometric="rgb", extrasamples=[extra], **settings)
            opaque = extra == "unspecified"  # TIFF 6.0: "unspecified data"
            yield Kind(f"tiff rgb {extra} {dtype} {order} {planes}", data, ends_of(dtype), opaque)
        cmyk = tiff(quantised(picture(4) * 0.8, dtype), photometric="separated", **settings)
        yield Kind(f"tiff cmyk {dtype} {order} {planes}", cmyk, ends_of(dtype))
    for dtype, extra in itertools.product(("uint8", "uint16"), ("assocalpha", "unassalpha")):
        grey = picture(2)
        grey[..., 1] = 0.25 + 0.75 * grey[..., 1]
        grey[..., 0] *= grey[..., 1] if extra == "assocalpha" else 1
        data = tiff(quantised(grey, dtype), photometric="minisblack", planarconfig="contig", extrasamples=[extra])
        yield Kind(f"tiff grey {extra} {dtype}", data, ends_of(dtype))


def _compressions() -> Iterator[Kind]:
    for compression in ("lzw", "deflate", "packbits", "zstd", "lzma"):
        for dtype, channels, predictor in itertools.product(("uint8", "uint16"), (1, 3), (False, True)):
            if predictor and compression == "packbits":
                continue
            values = quantised(picture(channels), dtype)
            color = "rgb" if channels == 3 else "minisblack"
            data = tiff(values.squeeze(), photometric=color, compression=compression, predictor=predictor)
            name = f"tiff {compression}{' predictor' if predictor else ''} {color} {dtype}"
            yield Kind(name, data, ends_of(dtype))


def _tags() -> Iterator[Kind]:
    for bits in (10, 12, 14):
        values = quantised(picture(1), "uint16", bits)[..., 0]
        top = (281, 3, 1, 2**bits - 1, True)
        yield Kind(f"tiff {bits} bits by MaxSampleValue", tiff(values, extratags=[top]), ends_of("uint16", bits))
        yield Kind(f"tiff {bits} bits in 16", tiff(values), ends_of("uint16", bits))
    for orientation in range(1, 9):
        for dtype, channels in itertools.product(("uint8", "uint16"), (1, 3)):
            tag = (274, 3, 1, orientation, True)
            color = "rgb" if channels == 3 else "minisblack"
            data = tiff(quantised(picture(channels), dtype).squeeze(), photometric=color, extratags=[tag])
            yield Kind(f"tiff {color} {dtype} orientation {orientation}", data, ends_of(dtype))
    for tile, color in itertools.product(((16, 16), (32, 16)), ("minisblack", "rgb")):
        values = quantised(picture(3 if color == "rgb" else 1), "uint16").squeeze()
        yield Kind(f"tiff tiles {tile} {color}", tiff(values, photometric=color, tile=tile), ends_of("uint16"))
    for dtype in ("uint8", "uint16"):
        n = 2 ** (8 * np.dtype(dtype).itemsize)
        colors = (np.stack([np.linspace(0, 1, n), np.linspace(1, 0, n), np.linspace(0.2, 0.8, n)]) * 65535).round()
        values = quantised(picture(1), dtype)[..., 0]
        yield Kind(
            f"tiff colour map {dtype}",
            tiff(values, photometric="palette", colormap=colors.astype(np.uint16)),
            ends_of(dtype),
        )


def _by_libtiff() -> Iterator[Kind]:
    yield Kind("tiff big", tiff(quantised(picture(3), "uint8"), photometric="rgb", bigtiff=True))
    for mode, compression in (("1", "group4"), ("1", None), ("P", None), ("YCbCr", None), ("LAB", None)):
        image = Image.fromarray(quantised(picture(3), "uint8"))
        image = image.quantize(64) if mode == "P" else image.convert(mode) if mode != "LAB" else _lab(image)
        yield Kind(f"tiff pillow {mode} {compression}", by_pillow(image, "TIFF", compression=compression))
    rgb_image = Image.fromarray(quantised(picture(3), "uint8"))
    yield Kind("tiff jpeg rgb", by_pillow(rgb_image, "TIFF", compression="jpeg", quality=95))


def png_kinds() -> Iterator[Kind]:
    """PNGs: colour types, depths, transparent colours, significant bits, orientation."""
    for channels, dtype in itertools.product((1, 2, 3, 4), ("uint8", "uint16")):
        values = quantised(picture(channels), dtype)
        yield Kind(f"png {channels} channels {dtype}", png(values), ends_of(dtype))
        if channels in (1, 3):
            pixel = values[HEIGHT // 2, WIDTH // 2].astype(">u2").tobytes()
            yield Kind(f"png tRNS {channels} channels {dtype}", png(values, chunk(b"tRNS", pixel)), ends_of(dtype))
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            body = exif.tobytes().removeprefix(b"Exif\0\0")
            data = png(values, chunk(b"eXIf", body))
            yield Kind(f"png {channels} channels {dtype} orientation {orientation}", data, ends_of(dtype))
    for depth in (1, 2, 4):
        values = quantised(picture(1), "uint8", depth)
        yield Kind(f"png grey {depth} bits", png(values, depth=depth))
        for transparent in range(min(2**depth, 4)):
            data = png(values, chunk(b"tRNS", struct.pack(">H", transparent)), depth)
            yield Kind(f"png grey {depth} bits tRNS {transparent}", data)
    for bits in (10, 12, 14):
        values = quantised(picture(1), "uint16", bits)
        yield Kind(f"png {bits} bits in 16", png(values), ends_of("uint16", bits))
        yield Kind(f"png {bits} bits, sBIT", png(values, chunk(b"sBIT", bytes([bits]))), ends_of("uint16", bits))
        full = quantised(picture(1), "uint16")
        yield Kind(f"png 16 bits, sBIT {bits}", png(full, chunk(b"sBIT", bytes([bits]))), ends_of("uint16"))
        color = quantised(picture(3), "uint16", bits)
        yield Kind(f"png rgb {bits} bits in 16", png(color), ends_of("uint16", bits))
    image = Image.fromarray(quantised(picture(3), "uint8")).quantize(16)
    yield Kind("png palette", by_pillow(image, "PNG"))
    yield Kind("png palette tRNS", by_pillow(image, "PNG", transparency=3))
    yield Kind("png palette alpha", by_pillow(image, "PNG", transparency=bytes(range(0, 256, 16))))


def other_kinds() -> Iterator[Kind]:
    """JPEG, WebP, AVIF, GIF, PPM."""
    rgb = Image.fromarray(quantised(picture(3), "uint8"))
    for mode, orientation in itertools.product(("L", "RGB", "CMYK"), range(1, 9)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for progressive in (False, True):
            data = by_pillow(rgb.convert(mode), "JPEG", quality=95, exif=exif, progressive=progressive, subsampling=0)
            yield Kind(f"jpeg {mode}{' progressive' if progressive else ''} orientation {orientation}", data)
        if mode == "RGB":
            yield Kind(f"webp orientation {orientation}", by_pillow(rgb, "WEBP", exif=exif, lossless=True))
            yield Kind(f"avif orientation {orientation}", by_pillow(rgb, "AVIF", exif=exif, quality=95))
    rgba = Image.fromarray(quantised(picture(4), "uint8"))
    yield Kind("webp alpha", by_pillow(rgba, "WEBP", lossless=True))
    yield Kind("avif alpha", by_pillow(rgba, "AVIF", quality=95))
    yield Kind("gif", by_pillow(rgb.quantize(64), "GIF"))
    yield Kind("gif transparent", by_pillow(rgb.quantize(64), "GIF", transparency=3))
    for bits in (8, 10, 12, 16):
        values = quantised(picture(1), "uint16", bits)[..., 0]
        body = values.astype("u1" if bits == 8 else ">u2").tobytes()
        head = f"P5 {WIDTH} {HEIGHT} {2**bits - 1}\n".encode()
        yield Kind(f"pgm {bits} bits", head + body, None if bits == 8 else ends_of("uint16", bits))


def kinds() -> Iterator[Kind]:
    """All of them."""
    yield from tiff_kinds()
    yield from png_kinds()
    yield from other_kinds()


def _lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(*profiles, "RGB", "LAB").apply(image)


def by_libvips(kind: Kind) -> NDArray[np.float64] | None:
    """What libvips shows, (h, w, 3) of 0 to 255 on white; None: it cannot read the file."""
    try:
        image = (
            pyvips.Image.new_from_buffer(kind.data, "", access="sequential", fail_on="error").copy_memory().autorot()
        )
        if image.interpretation == "lab":
            image = image.colourspace("srgb")
        values = image.numpy().astype(np.float64)
    except pyvips.Error:
        return None
    values = values[..., None] if values.ndim == 2 else values
    low, high = kind.ends or (0.0, 255.0)
    scaled = np.clip((values - low) / (high - low), 0, 1)
    n_colors = 4 if image.interpretation == "cmyk" else 1 if values.shape[2] <= 2 else 3
    colors = scaled[..., :n_colors]
    if n_colors == 4:
        colors = (1 - colors[..., :3]) * (1 - colors[..., 3:])
    if image.hasalpha() and not kind.opaque:
        opaque = values[..., -1:] / (2.0 ** (8 * np.dtype(image.numpy().dtype).itemsize) - 1)
        colors = colors * opaque + 1 - opaque
    return np.broadcast_to(colors, (*colors.shape[:2], 3)) * 255


def compare(kind: Kind) -> tuple[str, float]:
    """Verdict, and the mean difference of shoal's picture from libvips', of 255."""
    expected = by_libvips(kind)
    try:
        found = decode(kind.data).transpose(1, 2, 0).astype(np.float64)
    except UnreadableError as error:
        return ("neither" if expected is None else f"refused: {error}"), 0.0
    if expected is None:
        return "libvips cannot", 0.0
    if found.shape != expected.shape:
        return f"differs: {found.shape} against {expected.shape}", 255.0
    difference = float(np.abs(found - expected).mean())
    return ("agrees" if difference <= AGREES else "differs"), difference


def main() -> None:
    """Print a line per kind that does not agree, and how many do."""
    verdicts: Counter[str] = Counter()
    print(f"tifffile {tifffile.__version__}, imagecodecs {imagecodecs.__version__}, libvips {pyvips.version(0)}.x")
    for kind in kinds():
        verdict, difference = compare(kind)
        verdicts[verdict.partition(":")[0]] += 1
        print(f"{kind.name:<48} {difference:6.2f}  {verdict}")
    both = verdicts["agrees"] + verdicts["differs"]
    print(f"\n{dict(verdicts)}; of {both} that both read, {verdicts['agrees'] / both:.1%} agree")


if __name__ == "__main__":
    main()
