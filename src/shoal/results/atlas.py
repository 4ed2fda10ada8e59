"""Thumbnails and map of the images that a report shows, in a table that embedding-atlas opens as well, by

    embedding-atlas atlas.parquet --x x --y y --image image

Without the columns of the map it would ask for a column to embed, and download a network to do so.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from shoal.errors import UserError
from shoal.mapped import release, scratch
from shoal.report.pictures import LOSSLESS_UP_TO, edge_for, thumbnail
from shoal.results.rows import Assignments
from shoal.results.tables import as_utf8, write_table

QUALITY = 80
"""Of the thumbnails, as WebP."""

_ROWS = 2048  # of a row group: about 4 MB of thumbnails

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


def write_atlas(
    found: Assignments, ids: Sequence[str], pictures: UInt8[Tensor, "n 3 h w"] | Sequence[bytes], path: Path
) -> None:
    """Write id, cluster, confidence, x, y and a thumbnail of each image.

    A thumbnail is a struct of bytes and path, as the Hugging Face hub keeps images, so that most viewers show it.

    Args:
        found: a row for each image, with its place on the map.
        ids: their names.
        pictures: pixels of the images, or their thumbnails from ``encode``.
        path: ends in .parquet.

    Raises:
        UserError: the path cannot be written.
    """
    assert found.positions is not None, "an atlas has a map"
    edge = edge_for(len(ids))
    x, y = found.positions.T.contiguous()

    def chunk(start: int) -> pa.RecordBatch:
        part = slice(start, start + _ROWS)
        texts = [as_utf8(name) for name in ids[part]]
        thumbnails = [
            {"bytes": image if isinstance(image, bytes) else encode(image, edge), "path": f"{text}.webp"}
            for text, image in zip(texts, pictures[part], strict=True)
        ]
        numbers = (found.labels, found.confidence, x, y)
        columns = [texts, *(values[part].numpy() for values in numbers), thumbnails]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        return pa.record_batch(arrays, SCHEMA)

    write_table(path, SCHEMA, (chunk(start) for start in range(0, len(ids), _ROWS)))


def read_atlas(path: Path) -> tuple[list[str], UInt8[Tensor, "n 3 h w"]]:
    """Read the ids and the thumbnails, which are all of one size.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    ids, pixels = list[str](), torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    with _read(path) as batches:
        for n, names, encoded in batches:
            for row, each in enumerate(encoded, len(ids)):
                image = decode(each)
                if not row:
                    pixels = scratch((n, *image.shape), torch.uint8)
                pixels[row] = image
            ids += names
            release(pixels)
    return ids, pixels


def read_encoded(path: Path) -> tuple[list[str], list[bytes]]:
    """Read the ids and the thumbnails as they are in the table.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    ids, images = list[str](), list[bytes]()
    with _read(path) as batches:
        for _, names, encoded in batches:
            ids += names
            images += encoded
    return ids, images


@contextlib.contextmanager
def _read(path: Path) -> Iterator[Iterator[tuple[int, list[str], list[bytes]]]]:
    """How many rows there are, and ids and thumbnails, a part at a time.

    Raises:
        UserError: there is no such file, or what it holds is damaged.
    """

    def batches() -> Iterator[tuple[int, list[str], list[bytes]]]:
        for batch in table.iter_batches(_ROWS, columns=["id", "image"]):
            yield table.metadata.num_rows, batch["id"].to_pylist(), batch["image"].field("bytes").to_pylist()

    try:
        with path.open("rb") as file:  # pyarrow takes no path that is not UTF-8
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
            yield batches()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def decode(encoded: bytes) -> UInt8[Tensor, "3 h w"]:
    """The pixels of a thumbnail."""
    with Image.open(io.BytesIO(encoded)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy())


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"cannot read the thumbnails of the report in {path} ({reason}): cluster again.")


def example_images(path: Path, n: int, size: tuple[int, int]) -> UInt8[Tensor, "m 3 h w"]:
    """At most n of the thumbnails at the size that a network takes, to try an exported one on.

    Raises:
        UserError: as ``read_atlas``.
    """
    pixels = read_atlas(path)[1][:n].float()
    return interpolate(pixels, size=size, mode="bilinear").round().to(torch.uint8)


def encode(pixels: UInt8[Tensor, "3 h w"], edge: int) -> bytes:
    """A thumbnail of an image, at most this many pixels wide or high, as WebP."""
    file = io.BytesIO()
    small = thumbnail(pixels, edge)
    small.save(file, "WEBP", quality=QUALITY, lossless=max(small.size) <= LOSSLESS_UP_TO, method=2)
    return file.getvalue()
