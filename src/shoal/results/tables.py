"""The table that people came for: which image is in which cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Int64
from torch import Tensor

from shoal.errors import UserError
from shoal.files import atomic_file
from shoal.results.rows import Assigned
from shoal.results.trained import Assignment
from shoal.types import Images

SUFFIXES = (".parquet", ".csv")


def write_assignments(assignment: Assignment, images: Images, path: Path) -> None:
    r"""Write id, cluster, distance and margin of each image, and its label where it has one.

    The distance is to the image's own centre (1 − cosine); the margin says how much farther the second centre is.

    Names that are not UTF-8 have their stray bytes spelt out: ``\udcff`` stands for the byte ff.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    columns = _columns(assignment, [as_utf8(name) for name in images.ids])
    if images.classes:
        classes = [as_utf8(name) for name in images.classes]
        columns["label"] = pa.array([None if label < 0 else classes[label] for label in images.targets.tolist()])
    _write(columns, path)


def write_row_assignments(assignment: Assignment, path: Path) -> None:
    """Write the number of each row, counted from 0, as its id; and its cluster, distance and margin.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    _write(_columns(assignment, range(len(assignment.clusters))), path)


def _columns(assignment: Assignment, ids: Sequence[str] | Sequence[int]) -> dict[str, pa.Array]:
    return {
        "id": pa.array(ids),
        "cluster": pa.array(assignment.clusters.cpu().numpy()),
        "distance": pa.array(assignment.distances.cpu().numpy()),
        "margin": pa.array(assignment.margins.cpu().numpy()),
    }


def _write(columns: Mapping[str, pa.Array], path: Path) -> None:
    table = pa.table(dict(columns))
    write_table(path, table.schema, [table])


def write_table(path: Path, schema: pa.Schema, chunks: Iterable[pa.Table | pa.RecordBatch]) -> None:
    """Write a table chunk by chunk, so that no more than one of them is held; the ending says the format.

    Of Parquet each chunk becomes a row group of its own, or several.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    check_suffix(path)
    as_csv = path.suffix.lower() == ".csv"
    open_writer = pyarrow.csv.CSVWriter if as_csv else pyarrow.parquet.ParquetWriter
    with atomic_file(path) as file, open_writer(file, schema) as writer:
        for chunk in chunks:
            writer.write(chunk)


def check_free(path: Path) -> None:
    """Raise a UserError when a table cannot be written there without overwriting something."""
    check_suffix(path)
    if path.exists():
        raise UserError(f"{path} exists already: give another --out.")


def check_suffix(path: Path) -> None:
    """Raise a UserError when the table cannot be written in the format the name asks for."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} should end in {' or '.join(SUFFIXES)}: the ending says the format.")


def as_utf8(name: str) -> str:
    """A name as tables hold it: stray bytes of one that is not UTF-8 are spelt out."""
    # Tables hold UTF-8 only; a "?" in place of each stray byte would make two files one.
    return name.encode("utf-8", "backslashreplace").decode()


ROWS = 65_536
"""Rows of a row group, and all that are made at once."""


def write_assigned(
    assigned: Assigned,
    ids: Sequence[str],
    path: Path,
    *,
    labels: Int64[Tensor, "n"] | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Write id, cluster, confidence, distance and margin of each image.

    Beside them x and y where there is a map, and the label where there are classes. They mean what they
    mean in ``Assigned``. Names are written as in the assignments of a run.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    numbers = [("confidence", pa.float32()), ("distance", pa.float32()), ("margin", pa.float32())]
    places = [] if assigned.places is None else [("x", pa.float32()), ("y", pa.float32())]
    fields = [("id", pa.string()), ("cluster", pa.int64()), *numbers, *places]
    shown = labels if classes else None
    schema = pa.schema(fields if shown is None else [*fields, ("label", pa.string())])
    write_table(path, schema, _chunks(assigned, ids, schema, shown, [as_utf8(name) for name in classes]))


def _chunks(
    assigned: Assigned,
    ids: Sequence[str],
    schema: pa.Schema,
    labels: Int64[Tensor, "n"] | None,
    classes: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    names = iter(ids)
    for start in range(0, len(ids), ROWS):
        part = slice(start, start + ROWS)
        columns: list[object] = [[as_utf8(name) for name in islice(names, ROWS)], assigned.clusters[part].numpy()]
        columns += [values[part].numpy() for values in (assigned.confidence, assigned.distance, assigned.margin)]
        if assigned.places is not None:
            columns += list(assigned.places[part].T.contiguous().numpy())
        if labels is not None:
            columns.append([None if label < 0 else classes[label] for label in labels[part].tolist()])
        yield pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema
        )
