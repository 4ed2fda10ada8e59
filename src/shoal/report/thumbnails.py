"""Small pictures that live inside the page, as data URIs."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

LOSSLESS_UP_TO = 16
"""Pixels: below this edge WebP's lossy blocks show, and lossless is as small."""

QUALITIES = (70, 50, 25)
"""Of WebP, best first."""


@dataclass(frozen=True)
class Sprites:
    """Thumbnails in one picture: ``columns`` × ``rows`` cells of ``width`` × ``height`` pixels."""

    uri: str
    columns: int
    rows: int
    width: int
    height: int


def thumbnail(pixels: UInt8[Tensor, "3 h w"], edge: int) -> Image.Image:
    """One image, scaled down so that neither side exceeds ``edge`` pixels; a smaller one stays as it is."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return image


def thumbnail_uri(pixels: UInt8[Tensor, "3 h w"], edge: int) -> str:
    """One image as a data URI of at most ``edge`` pixels a side."""
    image = thumbnail(pixels, edge)
    return _uri(_webp(image, QUALITIES[0], lossless=max(image.size) <= LOSSLESS_UP_TO))


def sprites(pixels: UInt8[Tensor, "n 3 h w"], index: Int64[Tensor, "m"], edge: int, max_bytes: int) -> Sprites:
    """Put images in one sheet, row by row, at the best quality that fits ``max_bytes``, or else the worst."""
    cells = [thumbnail(pixels[i], edge) for i in index.tolist()]
    columns = math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, cell in enumerate(cells):
        sheet.paste(cell, (place % columns * width, place // columns * height))
    small = max(width, height) <= LOSSLESS_UP_TO
    for quality in QUALITIES:
        content = _webp(sheet, quality, lossless=small)
        if len(content) <= max_bytes:
            break
    return Sprites(_uri(content), columns, rows, width, height)


def _webp(image: Image.Image, quality: int, *, lossless: bool) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, lossless=lossless, method=4)
    return file.getvalue()


def _uri(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")
