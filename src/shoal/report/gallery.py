"""A picture of the clusters, for a README or a slide."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from shoal.files import atomic_write
from shoal.report.data import ReportData
from shoal.report.galleries import members
from shoal.report.thumbnails import thumbnail

COLUMNS, TILE, GAP = 16, 48, 4


def gallery_picture(data: ReportData, path: Path) -> None:
    """Write a PNG with a row for each cluster: its 16 most central images, 48 pixels each.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    clusters = members(data.clustering)
    side = TILE + GAP
    picture = Image.new("RGB", (COLUMNS * side - GAP, max(1, len(clusters)) * side - GAP), "white")
    for row, own in enumerate(clusters):
        for column, i in enumerate(own[:COLUMNS].tolist()):
            tile = thumbnail(data.images.pixels[i], TILE)
            small = max(tile.size) <= TILE // 2
            tile = tile.resize((TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
            picture.paste(tile, (column * side, row * side))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    atomic_write(path, file.getvalue())
