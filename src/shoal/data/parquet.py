"""Parquet files as the Hugging Face hub stores images: a struct of bytes and path, and a label beside it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.data.listing import Blob, Listing, Source, check_regular
from shoal.errors import UserError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "coarse_label", "fine_label")
_ROWS = 64  # decoded from a row group at a time


def parquet_source(path: Path, names: Sequence[str]) -> Source:
    """Take the shards ``names`` under the folder ``path``, joined in this order."""
    root = path.absolute()
    files = [root / name for name in names]
    return Source(("parquet", str(root), *names), files, lambda: _listing(files, names))


def _listing(files: Sequence[Path], names: Sequence[str]) -> Listing:
    """Read names and labels whole, which is little; the images are not opened.

    An image is named by the path that the hub keeps beside its bytes, if all have one and no two the same;
    else by its shard and row.
    """
    with _open(files[0]) as shard:
        schema = shard.schema_arrow
        image = _image_column(files[0], schema)
        label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
        has_path = schema.field(image).type.get_field_index("path") >= 0
    wanted = [column for column in (f"{image}.path" if has_path else None, label) if column]
    rows: list[str] = []
    paths: list[str | None] = []
    labels: list[Any] = []
    counts: list[int] = []
    for file, name in zip(files, names, strict=True):
        with _open(file) as shard:
            if image not in shard.schema_arrow.names or (label and label not in shard.schema_arrow.names):
                raise UserError(f"{file} has other columns than {files[0].name}: read the two apart.")
            count = shard.metadata.num_rows
            counts.append(count)
            table = shard.read(columns=wanted)
        rows += [f"{name}#{row}" for row in range(count)]
        paths += pc.struct_field(table[image], "path").to_pylist() if has_path else [None] * count
        labels += table[label].to_pylist() if label else [None] * count
    named = [path for path in paths if path]
    ids = named if len(set(named)) == len(rows) else rows
    numbers, classes = _classes(labels, _class_names(schema, label), rows)
    return Listing(ids, numbers, classes, lambda: _blobs(files, image), _held_out(names, counts))


def _held_out(names: Sequence[str], counts: Sequence[int]) -> list[bool]:
    """Tell the rows of test shards by the hub's names for them; none where no shard is for training."""
    splits = [re.match("train|test", Path(name).name.lower()) for name in names]
    found = [split[0] if split else "" for split in splits]
    if {"train", "test"} <= set(found):
        return [part == "test" for part, count in zip(found, counts, strict=True) for _ in range(count)]
    return []


@contextlib.contextmanager
def _open(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        check_regular(file)
        with pq.ParquetFile(file) as shard:
            yield shard
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {file} as Parquet: {' '.join(str(error).split())}") from error


def _image_column(file: Path, schema: pa.Schema) -> str:
    for name in _IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return name
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    wanted = "shoal looked for 'img' or 'image', a struct with bytes, among"
    raise UserError(f"{file} has no column of images: {wanted} {columns}.")


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Look up the names of the classes in the hub's metadata; () where it has none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _classes(labels: Sequence[Any], names: tuple[str, ...], rows: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Give every label its class number, -1 for a missing one.

    Without names, the distinct labels in order are the classes.

    Raises:
        UserError: a label is no number of a class that has a name, or is not a single value.
    """
    known = [None if isinstance(label, int) and label < 0 else label for label in labels]
    for row, label in zip(rows, known, strict=True):
        if names and label is not None and not (isinstance(label, int) and label < len(names)):
            wanted = f"as the metadata names {len(names)} classes, labels are whole numbers below {len(names)}"
            raise UserError(f"{row} has the label {label!r}: {wanted}; mend its table.")
        if isinstance(label, list | dict):
            raise UserError(f"{row} has the label {label!r}: give each image one label, a number or a text.")
    if names:
        return [-1 if label is None else int(label) for label in known], names
    values, numbers = np.unique([label for label in known if label is not None], return_inverse=True)
    number = iter(numbers.tolist())
    return [-1 if label is None else next(number) for label in known], tuple(str(value) for value in values)


def _blobs(files: Sequence[Path], image: str) -> Iterator[Blob]:
    for file in files:
        with _open(file) as shard:
            for batch in shard.iter_batches(_ROWS, columns=[f"{image}.bytes"]):
                yield from pc.struct_field(batch.column(0), "bytes").to_pylist()
