"""A table with small pictures that embedding-atlas opens, by

    embedding-atlas atlas.parquet --x x --y y --image image

Without the columns of the map it would ask for a column to embed, and download a network to do so.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from shoal.report.pictures import thumbnail
from shoal.results.rows import Assigned
from shoal.results.tables import as_utf8, write_table

EDGE = 64
"""Pixels: no side of a picture is longer."""

QUALITY = 70
"""Of the pictures, as WebP."""

_ROWS = 2048  # of a row group: about 4 MB of pictures

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.int64()),
        ("confidence", pa.float32()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)


def write_atlas(assigned: Assigned, ids: Sequence[str], pixels: Iterable[Tensor], path: Path) -> None:
    """Write id, cluster, confidence, x, y and a picture of each image.

    A picture is a struct of bytes and path, as the Hugging Face hub keeps images, so that most viewers show it.

    Args:
        assigned: a row for each image.
        ids: their names.
        pixels: uint8 (3, h, w) of each, in the same order; read some at a time.
        path: ends in .parquet.

    Raises:
        UserError: the path cannot be written.
    """
    write_table(path, SCHEMA, _chunks(assigned, ids, pixels))


def _chunks(assigned: Assigned, ids: Sequence[str], pixels: Iterable[Tensor]) -> Iterator[pa.RecordBatch]:
    assert assigned.places is not None, "a map needs places"
    names, images = iter(ids), iter(pixels)
    for start in range(0, len(ids), _ROWS):
        part = slice(start, start + _ROWS)
        texts = [as_utf8(name) for name in islice(names, _ROWS)]
        pictures = [
            {"bytes": _picture(image), "path": f"{text}.webp"}
            for text, image in zip(texts, islice(images, len(texts)), strict=True)
        ]
        numbers = [assigned.clusters[part], assigned.confidence[part], *assigned.places[part].T.contiguous()]
        columns = [texts, *(values.numpy() for values in numbers), pictures]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        yield pa.record_batch(arrays, SCHEMA)


def _picture(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    thumbnail(pixels, EDGE).save(file, "WEBP", quality=QUALITY, method=2)
    return file.getvalue()
