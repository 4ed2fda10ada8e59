"""Tables of image paths: CSV or Parquet, with a column of paths and optionally labels and ids."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeAlias

from shoal.data.listing import Files, Listing, Names, Source, check_regular, distinct
from shoal.data.sources.labels import classes_of
from shoal.data.sources.parquet import image_column, is_text, open_parquet
from shoal.data.sources.stored import blobs_at, folder_of, has_urls, located_in
from shoal.data.sources.stored_file import File, StoredFile, cannot_read, local_files, version_of
from shoal.data.urls import public
from shoal.errors import UserError

PATHS = (
    *("path", "file", "file_name", "image", "image_path", "file_path", "image_file", "image_name", "image_file_name"),
    *("img", "img_path", "img_file", "img_name", "photo"),
)
"""Columns that hold paths, and those that hold labels."""
LABELS = ("label", "class", "category", "class_name", "labels")
_ID = "id"
_WHOLE = re.compile(r"-?\d{1,18}(\.0*)?")
"""A whole number, which pandas writes with a point where labels are missing."""

Column: TypeAlias = Callable[[str], Iterator[Any]]
"""Iterates over the values of a column, given its name."""


def first_of(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column with the first of some names, whatever its case and what is between the words; else None."""
    plain = {_plain(name): name for name in reversed(columns)}
    return next((plain[_plain(name)] for name in wanted if _plain(name) in plain), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "").replace("-", "")


def is_table_of_paths(file: File) -> bool:
    """Tell a Parquet file of image paths from one of images.

    Raises:
        UserError: it cannot be read as Parquet.
    """
    with open_parquet(file) as table:
        schema = table.schema_arrow
    found = first_of(PATHS, [field.name for field in schema if is_text(field.type)])
    return found is not None and image_column(schema) is None


def table_source(file: File) -> Source:
    """Read the images whose paths or addresses a table lists; relative paths are relative to the table.

    An image is named by the column ``id``, or else by its path as written.

    Raises:
        UserError: the table cannot be read or has no column of paths, a row has no path, or two rows have one id.
    """
    is_csv = file.suffix.lower() == ".csv"
    columns, column = _csv(file) if is_csv else _parquet(file)
    where = first_of(PATHS, columns)
    if where is None:
        raise _no_paths(file, columns)
    paths = Names(_complete(column(where), where, file))
    if not len(paths):
        raise UserError(f"there are no images in {file}: it has no rows.")
    root = file.absolute().parent if isinstance(file, Path) else folder_of(file)
    files = Files(paths, partial(located_in, root))
    remote = isinstance(file, StoredFile) or has_urls(paths)
    if is_csv and not remote:
        _check_encoding(file, paths, files)
    label = first_of(LABELS, columns)

    def listing() -> Listing:
        ids = distinct(Names(map(public, paths)) if remote else paths)
        if (named := first_of((_ID,), columns)) is not None:
            given = _complete(column(named), named, file)
            ids = Names(map(str, _whole(given, file) if is_csv else given))
            if distinct(ids) is not ids:
                raise UserError(f"two rows of {file} have the same id: make the ids unique, or drop the column.")
        values: Iterator[Any] = column(label) if label is not None else repeat(None, len(paths))
        targets, classes = classes_of(_numbers(_whole(values, file)) if is_csv else values, (), ids)
        if remote:
            blobs = partial(blobs_at, files)
            return Listing(ids, targets, classes, blobs, seek=blobs)
        return Listing(ids, targets, classes, lambda: iter(files), files=files)

    if remote:
        # What is behind addresses may change without the table.
        table = local_files([file])
        return Source(("manifest", str(file)), table, listing, stable=False, version=version_of([file]))
    everything = Files(Names(chain([file.name], paths)), lambda name: str(root / name))
    return Source(("manifest", str(root / file.name)), everything, listing)


def _no_paths(file: File, columns: Sequence[str]) -> UserError:
    found = ", ".join(columns[:20]) or "no columns"
    one = len(columns) == 1 and (";" in columns[0] or "\t" in columns[0])
    hint = "; separate the columns by commas" if one else ""
    return UserError(
        f"{file} has no column of paths: shoal looked for {', '.join(PATHS[:6])} and the like among {found}{hint}."
    )


def _complete(values: Iterable[Any], name: str, file: File) -> Iterator[Any]:
    for row, value in enumerate(values, 1):
        if value is None or value == "":
            raise UserError(f"row {row} of {file}, not counting the header, has no {name}: correct or remove it.")
        yield value


def _check_encoding(file: File, paths: Sequence[str], files: Sequence[Path]) -> None:
    """Refuse a table that is not UTF-8, unless its stray bytes are those of names on the disk.

    Raises:
        UserError: a file of a name with stray bytes is not there.
    """
    for row, name in enumerate(paths):
        if not _is_utf8(name) and not os.path.lexists(files[row]):
            raise _not_utf8(file, name)


def _whole(texts: Iterable[str | None], file: File) -> Iterator[str | None]:
    for text in texts:
        if text and not _is_utf8(text):
            raise _not_utf8(file, text)
        yield text


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in text)


def _not_utf8(file: File, text: str) -> UserError:
    shown = text.encode("utf-8", "backslashreplace").decode()
    return UserError(f"{file} is not encoded as UTF-8, since it holds {shown!r}: save it as UTF-8.")


def _numbers(values: Iterable[str | None]) -> Iterator[int | str | None]:
    """Parse the labels of a CSV file as whole numbers if all of them are; of others a negative number is none."""
    seen: dict[str, str] = {}
    texts = [value and seen.setdefault(value, value) for value in values]
    if all(_WHOLE.fullmatch(text) for text in seen if text):
        return (int(text.partition(".")[0]) if text else None for text in texts)
    return (None if not text or (text[0] == "-" and _WHOLE.fullmatch(text)) else text for text in texts)


def _csv(file: File) -> tuple[list[str], Column]:
    def rows() -> Iterator[list[str]]:
        try:
            if isinstance(file, Path):
                check_regular(file)
            with file.open("rb") as start:
                head = start.read(4)
            if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or 0 in head:
                raise UserError(f"{file} is encoded as UTF-16: save it as UTF-8.")
            with io.TextIOWrapper(file.open("rb"), encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
                yield from (row for row in csv.reader(lines, strict=True) if row)
        except (OSError, csv.Error) as error:
            raise cannot_read(file, error) or UserError(
                f"cannot read {file} as CSV: {getattr(error, 'strerror', None) or error}."
            ) from error

    columns = [name.strip() for name in next(rows(), [])]
    folder = file.parent if isinstance(file, Path) else None

    def column(name: str) -> Iterator[str]:
        at = columns.index(name)
        all_rows = rows()
        next(all_rows)
        texts = (row[at] if at < len(row) else "" for row in all_rows)
        if folder is not None and name == first_of(PATHS, columns):
            return (_trimmed(text, folder) for text in texts)
        return map(str.strip, texts)

    return columns, column


def _trimmed(cell: str, folder: Path) -> str:
    """A path without the spaces around it, unless a file has them in its name."""
    bare = cell.strip()
    return cell if bare != cell and os.path.lexists(folder / cell) else bare


def _parquet(file: File) -> tuple[list[str], Column]:
    with open_parquet(file) as table:
        schema = table.schema_arrow
    known = set(map(_plain, PATHS))
    usable = [field.name for field in schema if _plain(field.name) not in known or is_text(field.type)]

    def column(name: str) -> Iterator[Any]:
        with open_parquet(file) as table:
            for batch in table.iter_batches(columns=[name]):
                yield from batch.column(0).to_pylist()

    return usable, column
