"""Tables of a result: who is in which cluster, and smaller ones; Parquet or CSV, as the ending says."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, TextIO, runtime_checkable

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.data.listing import Names
from shoal.errors import UserError
from shoal.files import atomic_file, atomic_write
from shoal.mapped import release, released, scratch
from shoal.results.rows import Assignments
from shoal.types import Others

SUFFIXES = (".parquet", ".csv")

ROWS = 65_536
"""Rows of a row group, and all that are made at once."""

NUMBERS = ("confidence", "distance", "margin", "x", "y")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.int64()),
        ("name", pa.string()),
        *((name, pa.float32()) for name in NUMBERS),
        ("label", pa.string()),
    ]
)
"""Of the assignments, whatever made them. A cluster without a name, an image without a label and one without a place
on the map have nulls."""


STAMP = b"shoal.decisions"


def write_assignments(
    found: Assignments,
    ids: Sequence[str],
    path: Path,
    *,
    names: Mapping[int, str] | None = None,
    targets: Int64[Tensor, "n"] | None = None,
    classes: Sequence[str] = (),
    stamp: int = 0,
) -> None:
    r"""Write a row per image, with the columns of ``SCHEMA``.

    Names that are not UTF-8 have their stray bytes escaped: ``\udcff`` stands for the byte ff.

    Args:
        found: a row per image.
        ids: of the images.
        path: .parquet or .csv.
        names: of clusters that have one.
        targets: true class of each image, -1 for none; for the label column alone.
        classes: names of the true classes.
        stamp: bytes of the decisions that it follows, which Parquet keeps for ``stamp_of``.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    shown = targets if classes else None
    schema = SCHEMA.with_metadata({STAMP: str(stamp)}) if stamp else SCHEMA
    write_table(path, schema, _chunks(found, ids, names or {}, shown, [as_utf8(name) for name in classes]))


def stamp_of(path: Path) -> int:
    """Bytes of the decisions that a table of assignments follows; 0 where it follows none or cannot be read."""
    try:
        with path.open("rb") as file:
            return int((pyarrow.parquet.read_schema(file).metadata or {}).get(STAMP, b"0"))
    except (OSError, ValueError, pa.ArrowException):
        return 0


def _chunks(
    found: Assignments,
    ids: Sequence[str],
    names: Mapping[int, str],
    targets: Int64[Tensor, "n"] | None,
    classes: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    each = iter(ids)
    numbers = (found.confidence, found.distance, found.margin)
    parts = (slice(start, min(start + ROWS, len(ids))) for start in range(0, len(ids), ROWS))
    for part in released(parts, found.labels, *numbers, *([] if found.positions is None else [found.positions])):
        n, labels = part.stop - part.start, found.labels[part]
        columns: list[pa.Array] = [pa.array([as_utf8(name) for name in islice(each, n)], pa.string())]
        columns += [pa.array(labels.numpy()), _texts(labels, names)]
        columns += [pa.array(values[part].numpy()) for values in numbers]
        if found.positions is None:
            columns += [pa.nulls(n, pa.float32())] * 2
        else:
            columns += map(pa.array, found.positions[part].T.contiguous().numpy())
        columns.append(pa.nulls(n, pa.string()) if targets is None else _texts(targets[part], dict(enumerate(classes))))
        yield pa.record_batch(columns, SCHEMA)


def _texts(numbers: Int64[Tensor, "b"], texts: Mapping[int, str]) -> pa.Array:
    """The text of each number, null for one that has none."""
    if not texts:
        return pa.nulls(len(numbers), pa.string())
    return pa.array([texts.get(number) for number in numbers.tolist()], pa.string())


def read_assignments(path: Path) -> tuple[Sequence[str], Assignments, dict[int, str]]:
    """Read ids, assignments and the names of clusters from assignments.parquet, also from one of version 0.1.

    Rows are read a part at a time; those of many images lie in scratch files.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:  # pyarrow takes no path that is not UTF-8
            table = pyarrow.parquet.ParquetFile(file, pre_buffer=False)  # that would hold the whole file
            n = table.metadata.num_rows
            found = Assignments.blank(n, scratch((n,), torch.int64), scratch((n, 2), torch.float32))
            named: dict[int, str] = {}
            ids = Names(_read_parts(table, found, named))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise UserError(f"cannot read {path} ({reason}): bring it back from a copy, or cluster again.") from error
    return ids, found, named


def _read_parts(table: pyarrow.parquet.ParquetFile, found: Assignments, named: dict[int, str]) -> Iterator[str]:
    """Ids, and on the way all numbers, and names of clusters; version 0.1 had fewer columns."""
    assert found.positions is not None
    columns = dict(zip(NUMBERS, (found.confidence, found.distance, found.margin, *found.positions.T), strict=True))
    wanted, start = [name for name in SCHEMA.names[:-1] if name in table.schema_arrow.names], 0
    for name in ("id", "cluster", "distance", "margin"):
        if name not in wanted:
            raise KeyError(name)
    for batch in table.iter_batches(ROWS, columns=wanted):
        part = slice(start, start + len(batch))
        for name, kind in ((field.name, field.type) for field in SCHEMA if field.name in wanted):
            values = batch.column(name).cast(kind)
            if name in ("id", "cluster") and values.null_count:
                raise ValueError("an image without id or cluster")
            if name in columns:
                columns[name][part] = torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())
            elif name == "cluster":
                found.labels[part] = torch.from_numpy(values.to_numpy().copy())
            elif name == "name" and values.null_count < len(values):
                labels = batch.column("cluster").to_pylist()
                named |= {label: text for label, text in zip(labels, values.to_pylist(), strict=True) if text}
        for name in columns.keys() - set(wanted):
            columns[name][part] = torch.nan
        yield from batch.column("id").cast(pa.string()).to_pylist()
        start += len(batch)
        release(*columns.values(), found.labels)


def same_ids(table: Sequence[str], ids: Sequence[str]) -> bool:
    """Whether a table holds these names."""
    return len(table) == len(ids) and all(map(str.__eq__, table, map(as_utf8, ids)))


def write_table(path: Path, schema: pa.Schema, chunks: Iterable[pa.Table | pa.RecordBatch]) -> None:
    """Write a table chunk by chunk, so that no more than one of them is held; the ending says the format.

    In Parquet each chunk becomes a row group, or several.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    check_suffix(path)
    as_csv = path.suffix.lower() == ".csv"
    open_writer = pyarrow.csv.CSVWriter if as_csv else pyarrow.parquet.ParquetWriter
    with atomic_file(path) as file, open_writer(file, schema) as writer:
        for chunk in chunks:
            writer.write(chunk)


def write_columns(path: Path, columns: Mapping[str, tuple[pa.DataType, Sequence[object]]]) -> None:
    """Write a small table, given the type and the values of each column.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
    write_table(path, schema, [pa.table([list(values) for _, values in columns.values()], schema=schema)])


def table_of(file: TextIO) -> csv.DictReader[str]:
    """A CSV file that a person's program may have written: some write semicolons where decimals have commas."""
    head = file.readline()
    file.seek(0)
    return csv.DictReader(file, delimiter=";" if ";" in head and "," not in head else ",")


def read_csv(path: Path, *columns: str, later: Sequence[str] = (), whole: bool = False) -> Iterator[tuple[str, ...]]:
    """Some columns of one of our CSV files, row by row; none where there is no file.

    Columns that came ``later`` are empty in files of earlier versions. If ``whole``, there may be no other columns.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # programs that edit tables may add the mark
            table = csv.DictReader(file)
            found = set(table.fieldnames or ())
            if not found >= set(columns):
                raise ValueError("columns are missing")
            if whole and found != set(columns):
                raise ValueError("there are other columns")
            for row in table:
                if any(row[name] is None for name in columns) or (whole and None in row):
                    raise ValueError("a row is not as wide as the others")
                yield (*(row[name] for name in columns), *(row.get(name) or "" for name in later))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is damaged: delete it; the report will be written without it.") from error


@runtime_checkable  # so that beartype can check it
class Looked(Protocol):
    """Images that were looked at, as pixels or as features."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Why some could not be read, by their names."""

    @property
    def notes(self) -> Mapping[str, str]:
        """What others lack."""


def unread(looked: Looked, others: Others | None = None) -> dict[str, str]:
    """What is said of each file that was not read, or in part: images, and what there was beside them."""
    return {**looked.skipped, **looked.notes, **(others or Others()).reasons}


def write_skipped(reasons: Mapping[str, str], path: Path) -> None:
    """Write a table of what ``unread`` returns; if that is nothing there is none."""
    if not reasons:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    rows = ((as_utf8(name), as_utf8(reason)) for name, reason in reasons.items())
    csv.writer(text).writerows([("id", "reason"), *rows])
    atomic_write(path, text.getvalue().encode())


def check_free(path: Path) -> None:
    """Raise a UserError when a table cannot be written there without overwriting something."""
    check_suffix(path)
    if path.exists():
        raise UserError(f"{path} exists already: give another --out.")


def check_suffix(path: Path) -> None:
    """Raise a UserError when the ending names no format that a table can be written in."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} should end in {' or '.join(SUFFIXES)}: the suffix gives the format.")


def as_utf8(name: str) -> str:
    """A name as tables hold it: the stray bytes of one that is not UTF-8 are escaped."""
    # Tables hold UTF-8 only; a "?" in place of each stray byte would make two files one.
    return name.encode("utf-8", "backslashreplace").decode()
