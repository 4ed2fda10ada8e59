"""Parquet files of images as on the Hugging Face hub: a struct of bytes and path, and a label column."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.data.listing import Blob, Listing, Names, Source, check_regular
from shoal.data.sources.labels import classes_of
from shoal.data.sources.stored import Folder
from shoal.data.sources.stored_file import File, cannot_read, local_files, version_of
from shoal.errors import UserError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "coarse_label", "fine_label")
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_ROWS = 64  # read from a row group at a time


def parquet_source(path: Folder, names: Sequence[str]) -> Source:
    """Read the shards ``names`` under the folder ``path``, joined in this order."""
    root = path.absolute()
    files = [root / name for name in names]
    origin, version = ("parquet", str(root), *names), version_of(files)
    return Source(origin, local_files(files), lambda: _listing(files, names), version=version)


def _listing(files: Sequence[File], names: Sequence[str]) -> Listing:
    """Read names and labels, not the images.

    Images are named by the path beside their bytes if all have one and these are unique, else by shard and row.
    """
    with open_parquet(files[0]) as shard:
        schema = shard.schema_arrow
        image = image_column(schema)
        if image is None:
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            looked = "shoal looked for 'img' or 'image', a struct with bytes, among"
            raise UserError(f"{files[0]} has no column of images: {looked} {columns}.")
        label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
        has_path = _has_path(schema, image)
    wanted = [column for column in (f"{image}.path" if has_path else None, label) if column]
    rows: list[str] = []
    paths: list[str | None] = []
    labels: list[Any] = []
    counts: list[int] = []
    for file, name in zip(files, names, strict=True):
        with open_parquet(file) as shard:
            own = shard.schema_arrow
            if image_column(own) != image or _has_path(own, image) != has_path or (label and label not in own.names):
                raise UserError(f"{file} has other columns than {files[0].name}: read them separately.")
            count = shard.metadata.num_rows
            counts.append(count)
            table = shard.read(columns=wanted)
            paths += pc.struct_field(table[image], "path").to_pylist() if has_path else [None] * count
            labels += table[label].to_pylist() if label else [None] * count
        rows += [f"{name}#{row}" for row in range(count)]
    named = [path for path in paths if path]
    ids = Names(named if len(set(named)) == len(rows) else rows)
    numbers, classes = classes_of(labels, _class_names(schema, label), rows)
    held_out = _held_out(names, counts)
    blobs = partial(_blobs, files, image)
    return Listing(ids, numbers, classes, blobs, held_out, seek=blobs)


def _held_out(names: Sequence[str], counts: Sequence[int]) -> list[bool]:
    """Mark the rows of test shards by the hub's file names; none if there is no training shard."""
    splits = [re.match("train|test", _split_of(Path(name)).lower()) for name in names]
    found = [split[0] if split else "" for split in splits]
    if {"train", "test"} <= set(found):
        return [part == "test" for part, count in zip(found, counts, strict=True) for _ in range(count)]
    return []


def _split_of(shard: Path) -> str:
    """Return what begins with the split: the file's name or, for a data set converted by the hub, its folder's."""
    return shard.parent.name if shard.stem.isdigit() else shard.name


@contextlib.contextmanager
def open_parquet(file: File) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Raises:
        UserError: it cannot be read as Parquet, on opening or later, or two of its columns have one name.
    """
    try:
        if isinstance(file, Path):
            check_regular(file)
        with pq.ParquetFile(file if isinstance(file, Path) else file.open()) as shard:
            names = shard.schema_arrow.names
            if len({*names}) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise UserError(f"{file} has several columns named {twice!r}: rename or remove all but one.")
            yield shard
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise cannot_read(file, error) or UserError(
            f"cannot read {file} as Parquet: {' '.join(str(error).split())}"
        ) from error


def image_column(schema: pa.Schema) -> str | None:
    """Return the name of the column of images; None if there is none."""
    for name in _IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
            if at >= 0 and any(is_bytes(kind[at].type) for is_bytes in _BYTES):
                return name
    return None


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _has_path(schema: pa.Schema, image: str) -> bool:
    kind = schema.field(image).type
    at = kind.get_field_index("path")
    return at >= 0 and is_text(kind[at].type)


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Return the names of the classes from the hub's metadata; () if it has none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _blobs(files: Sequence[File], image: str, start: int = 0) -> Iterator[Blob]:
    """Iterate over the images from row ``start`` on, skipping the row groups before it."""
    for file in files:
        with open_parquet(file) as shard:
            if start >= shard.metadata.num_rows:
                start -= shard.metadata.num_rows
                continue
            groups = list(range(shard.num_row_groups))
            while start and start >= (rows := shard.metadata.row_group(groups[0]).num_rows):
                start -= rows
                del groups[0]
            for batch in shard.iter_batches(_ROWS, groups, columns=[f"{image}.bytes"]):
                column = batch.column(0).slice(min(start, len(batch)))
                start -= min(start, len(batch))
                yield from pc.struct_field(column, "bytes").to_pylist()
