"""assignments.parquet and assignments.csv of a clustering of features: a row for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from jaxtyping import Int64
from torch import Tensor

from shoal.assignments import as_utf8, write_table
from shoal.outputs.assigned import Assigned

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
