"""Thumbnails inside the page, on sheets of WebP in base64; and a picture of the clusters for trackers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from shoal.files import atomic_write
from shoal.report.data import ReportData, members

LOSSLESS_UP_TO = 16
"""Edge in pixels up to which lossless WebP is used: it is as small there, and lossy blocks would be visible."""

QUALITIES = (75, 60, 45, 30)
"""WebP qualities, best first."""

MAX_BYTES = 16_000_000
"""Size limit of all sheets together; 21 MB in base64."""

COLUMNS = 16
"""A sheet of 16 × 16 cells of 64 pixels takes 4 MB once decoded."""

EDGES = ((1_000, 96), (5_000, 64))
MANY_EDGE = 48


@dataclass(frozen=True)
class Sheets:
    """Thumbnails, 256 to a sheet, row by row: 16 columns of cells of ``width`` × ``height`` pixels."""

    contents: Sequence[str]
    width: int
    height: int


def thumbnail(pixels: UInt8[Tensor, "3 h w"], edge: int) -> Image.Image:
    """One image, scaled down so that neither side exceeds ``edge`` pixels; smaller images are unchanged."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return image


def edge_for(n: int) -> int:
    """Longer side in pixels of the thumbnails on a page of ``n`` images: 96, 64 above 1 000, 48 above 5 000."""
    return next((edge for most, edge in EDGES if n <= most), MANY_EDGE)


def sheets(pixels: UInt8[Tensor, "n 3 h w"], order: Int64[Tensor, "m"], max_bytes: int = MAX_BYTES) -> Sheets:
    """Put images on sheets in the given order, at the best quality within ``max_bytes``, or else at the lowest."""
    edge = edge_for(len(order))
    width, height = thumbnail(pixels[0], edge).size
    quality = _quality(pixels, order, edge, max_bytes)
    contents = [_webp(_sheet(pixels, part, edge), quality) for part in torch.split(order, COLUMNS**2)]
    return Sheets([base64.b64encode(content).decode("ascii") for content in contents], width, height)


def _quality(pixels: UInt8[Tensor, "n 3 h w"], order: Int64[Tensor, "m"], edge: int, max_bytes: int) -> int:
    """Estimated from one sheet of evenly spaced images."""
    n_trial = min(len(order), 4 * COLUMNS**2)
    trial = _sheet(pixels, order[torch.arange(n_trial) * len(order) // n_trial], edge)
    for quality in QUALITIES:
        if len(_webp(trial, quality)) * len(order) <= max_bytes * n_trial:
            return quality
    return QUALITIES[-1]


def _sheet(pixels: UInt8[Tensor, "n 3 h w"], index: Int64[Tensor, "m"], edge: int) -> Image.Image:
    cells = [thumbnail(pixels[i], edge) for i in index.tolist()]
    width, height = cells[0].size
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height))
    for place, cell in enumerate(cells):
        sheet.paste(cell, (place % COLUMNS * width, place // COLUMNS * height))
    return sheet


def _webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    lossless = image.width // COLUMNS <= LOSSLESS_UP_TO
    image.save(file, "WEBP", quality=quality, lossless=lossless, method=4)
    return file.getvalue()


TILES, TILE, GAP = 16, 48, 4


def gallery_picture(data: ReportData, path: Path) -> None:
    """Write a PNG with a row per cluster: its 16 most central images, 48 pixels each.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    clusters = members(data.clustering)
    side = TILE + GAP
    picture = Image.new("RGB", (TILES * side - GAP, max(1, len(clusters)) * side - GAP), "white")
    for row, own in enumerate(clusters):
        for column, i in enumerate(own[:TILES].tolist()):
            tile = thumbnail(data.images.pixels[i], TILE)
            small = max(tile.size) <= TILE // 2
            tile = tile.resize((TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
            picture.paste(tile, (column * side, row * side))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    atomic_write(path, file.getvalue())
