"""What a Python program has images in: data sets, iterables, dictionaries and tables, as one sequence of items.

pandas and Hugging Face's data sets are not dependencies: whoever passes one has imported its package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from shoal.data.decode import UnreadableError
from shoal.data.listing import Names, distinct
from shoal.data.sources.item import IMAGE_KEYS, LABEL_KEYS
from shoal.data.sources.labels import is_missing
from shoal.data.sources.table import LABELS, PATHS, first_of
from shoal.errors import UserError
from shoal.progress import counted

Read = Callable[[], object]
"""Gives an item; raises ``UnreadableError``."""

_WHAT = (
    "a path, a list of paths or images, an array, a data set of torch, torchvision or Hugging Face, a dict of images, "
    "a table or column of pandas, or a generator of images"
)


@dataclass(frozen=True, eq=False)
class Items:
    """Items one after the other, each of which is read by a call of its own, so that one that fails can be skipped."""

    each: Callable[[], Iterator[Read]]
    """A new pass over all items; fails where ``once`` and there was one."""
    n: int | None
    """How many there are; None where that is not known."""
    names: Sequence[str] | None = None
    """Of the items; None: an image that is given by its path has that, any other its index."""
    once: bool = False
    """Whether they can be read only once, as those of a generator."""
    classes: tuple[str, ...] = ()
    """Names of the classes that labels number, as far as they are known."""


def items_of(given: Any) -> Items:
    """What there is to read in whatever was given.

    Raises:
        UserError: it holds no images, or holds them in a way that leaves open which are meant.
    """
    _check_is_many(given)
    if (found := _of_frame(given)) is not None:
        return found
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(given, datasets.Dataset | datasets.IterableDataset):
        return _of_hugging_face(given, datasets)
    if isinstance(given, Mapping):
        return _of_mapping(given, datasets)
    if isinstance(given, np.ndarray):
        if given.ndim != 1:
            raise UserError(
                f"the array of {given.dtype} has shape {given.shape}: give one of paths or images, (n,), or of numbers."
            )
        return _of_sequence(given, len(given))
    if hasattr(given, "__getitem__") and not isinstance(given, IterableDataset):
        return _of_sequence(given, _length_of(given), _class_names(given))
    if isinstance(given, Iterable):
        return _of_iterable(given)
    raise UserError(f"cannot take images from an object of type {type(given).__name__}: give {_WHAT}.")


def as_paths(given: Any) -> list[str] | None:
    """The paths, if all that was given are paths; None for anything else, and for what can be read only once."""
    if isinstance(given, Mapping | Dataset) or not (isinstance(given, Sequence | np.ndarray) or _is_column(given)):
        return None
    if (isinstance(given, np.ndarray) and given.ndim != 1) or not len(given):
        return None
    if not all(isinstance(path, str | os.PathLike) for path in given):
        return None
    return [os.fspath(path) for path in given]


def _is_column(given: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, pandas.Series | pandas.Index)


def _check_is_many(given: Any) -> None:
    """Refuse a single image, and what gives batches.

    Raises:
        UserError: it is one of these.
    """
    if isinstance(given, Image.Image | bytes | bytearray):
        raise UserError("one image was given: put it into a list, [image].")
    if isinstance(given, type):
        raise UserError(f"a class was given: make an object of it, {given.__name__}(…).")
    if isinstance(given, DataLoader):
        raise UserError("a DataLoader gives batches, in an order of its own: give its data set, loader.dataset.")


def _of_sequence(given: Any, n: int, classes: tuple[str, ...] = (), names: Sequence[str] | None = None) -> Items:
    def reader(index: int) -> Read:
        return lambda: given[index]

    return Items(lambda: map(reader, range(n)), n, names, classes=classes)


def _length_of(given: Any) -> int:
    name = type(given).__name__
    try:
        return len(given)
    except Exception as error:
        raise UserError(
            f"the {name} does not say how many images it has ({type(error).__name__}): give it a __len__, or pass a "
            "generator over its images."
        ) from error


def _of_iterable(given: Iterable[Any]) -> Items:
    once = iter(given) is given

    def each() -> Iterator[Read]:
        iterator = iter(given)
        for at in count():
            try:
                item = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                why = " ".join(str(error).split())
                raise UserError(
                    f"the {type(given).__name__} failed at item {at} with {type(error).__name__}: {why}. An iterable "
                    "ends there: fix it, or let it leave that item out."
                ) from error
            yield partial(_same, item)

    return Items(each, None, once=once)


def _same(item: object) -> object:
    return item


def _of_mapping(given: Mapping[Any, Any], datasets: Any) -> Items:
    if datasets is not None and isinstance(given, datasets.DatasetDict | datasets.IterableDatasetDict):
        splits = ", ".join(map(repr, given))
        raise UserError(f"this has several splits, {splits}: give one of them, as data[{next(iter(given), '')!r}].")
    if (key := next((key for key in IMAGE_KEYS if key in given), None)) is not None:
        label = next((each for each in LABEL_KEYS if each in given), None)
        if isinstance(given[key], list | tuple) or getattr(given[key], "ndim", 0) == 4:  # columns of many rows
            labels = given[label] if label is not None else [None] * len(given[key])
            if len(labels) != len(given[key]):
                raise UserError(
                    f"{key!r} has {counted(len(given[key]), 'image')} and {label!r} {counted(len(labels), 'label')}: "
                    "give each image one, None for those without."
                )
            return _of_sequence([*zip(given[key], labels, strict=True)], len(given[key]))
        if label is not None:
            raise UserError(f"one item was given, with {key!r} and {label!r}: put it into a list, [item].")
    keys = [*given]

    def reader(key: object) -> Read:
        return lambda: given[key]

    return Items(lambda: map(reader, keys), len(keys), distinct(Names(map(str, keys))))


def _of_frame(given: Any) -> Items | None:
    """What a table of pandas, polars or pyarrow holds; None for what is none."""
    pandas, datasets = (sys.modules.get(name) for name in ("pandas", "datasets"))
    if pandas is not None and isinstance(given, pandas.DataFrame | pandas.Series | pandas.Index):
        return _of_pandas(given)
    is_data_set = datasets is not None and isinstance(given, datasets.Dataset)
    is_arrow = hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns") and not is_data_set
    return _of_arrow(given) if is_arrow else None


def _of_pandas(given: Any) -> Items:
    """A column of paths or images, or a table with one; named by its paths, else by its keys."""
    if not hasattr(given, "columns"):
        keys = map(str, given.index) if hasattr(given, "index") else map(str, range(len(given)))
        values = _without_missing(given)
        return _of_sequence(values, len(values), names=_row_names(values, keys))
    columns = [*map(str, given.columns)]
    return _of_table(columns, lambda column: given.iloc[:, column].tolist(), map(str, given.index))


def _of_arrow(given: Any) -> Items:
    """A table of polars, pyarrow or whatever else gives its columns as Arrow's; named as those of pandas."""
    import pyarrow as pa

    table = pa.table(given)
    return _of_table(table.column_names, lambda column: table.column(column).to_pylist(), map(str, range(len(table))))


def _of_table(columns: Sequence[str], column: Callable[[int], list[Any]], keys: Iterable[str]) -> Items:
    place = first_of((*PATHS, *IMAGE_KEYS), columns)
    if place is None:
        found = ", ".join(columns[:20]) or "no columns"
        raise UserError(f"the table has no column of paths or images: name it 'path', or give it alone ({found}).")
    values, label = _without_missing(column(columns.index(place))), first_of(LABELS, columns)
    labels = column(columns.index(label)) if label is not None else [None] * len(values)
    return _of_sequence([*zip(values, labels, strict=True)], len(values), names=_row_names(values, keys))


def _without_missing(values: Iterable[object]) -> list[object]:
    return [None if is_missing(value) else value for value in values]


def _row_names(values: Iterable[object], keys: Iterable[str]) -> Names:
    """Paths where there are some, else keys: one that is missing takes no other row's name."""
    rows = zip(values, keys, strict=True)
    return distinct(Names(os.fspath(value) if isinstance(value, str | os.PathLike) else key for value, key in rows))


def _of_hugging_face(given: Any, datasets: Any) -> Items:
    """The column of images, found by its type, and one of labels; images are decoded as files are."""
    features = given.features or {}
    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image = next((name for name in IMAGE_KEYS if name in columns), columns[0] if len(columns) == 1 else None)
    if image is None and columns:
        first = columns[0]
        raise UserError(
            f"there are several columns of images, {', '.join(columns)}: choose one, as by select_columns(['{first}'])."
        )
    label = next((name for name in LABEL_KEYS if name in features), None)
    if label is None:
        label = next((name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)), None)
    classes = tuple(getattr(features.get(label), "names", None) or ()) if label else ()
    transformed = isinstance(given, datasets.Dataset) and (given.format or {}).get("type") == "custom"
    numbers: str | None = None
    if image is None and not transformed:
        image, numbers = _array_column(features)
    raw = given
    if image is not None and isinstance(given, datasets.Dataset) and not transformed:
        raw = given.select_columns([name for name in (image, label) if name]).with_format("numpy" if numbers else None)
        raw = raw if numbers else raw.cast_column(image, datasets.Image(decode=False))

    def pair(read: Read) -> Read:
        def item() -> object:
            row: Any = read()
            if image is None or not isinstance(row, Mapping) or image not in row:
                return row  # as a transform has made it
            found = row[image]
            if numbers is not None and found is not None:
                found = np.asarray(found, numbers)  # formats make int64 of all whole numbers
            return found, row.get(label) if label else None

        return item

    found = _of_iterable(raw) if isinstance(given, datasets.IterableDataset) else _of_sequence(raw, len(raw))
    return Items(lambda: map(pair, found.each()), found.n, found.names, found.once, classes)


def _array_column(features: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The column of arrays that are images, by its name, and the type of their numbers; None where there is none."""
    for name in IMAGE_KEYS:
        kind, depth = features.get(name), 0
        while (inner := kind[0] if isinstance(kind, list) else getattr(kind, "feature", None)) is not None:
            kind, depth = inner, depth + 1
        numbers = str(getattr(kind, "dtype", ""))
        if (depth > 1 or hasattr(kind, "shape")) and numbers.startswith(("uint", "int", "float")):
            return name, numbers
    return None, None


def _class_names(given: Any) -> tuple[str, ...]:
    """Names of the classes as torchvision's data sets have them, also within torch's; () where there are none."""
    if isinstance(given, Subset):
        return _class_names(given.dataset)
    if isinstance(given, ConcatDataset):
        found = {_class_names(each) for each in given.datasets}
        return found.pop() if len(found) == 1 else ()
    names = getattr(given, "classes", None)
    fits = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if fits and names else ()


def read_item(read: Read) -> object:
    """Read an item.

    Raises:
        UnreadableError: its data set fails on it; the reason is the failure.
    """
    try:
        return read()
    except Exception as error:
        why = " ".join(str(error).split())
        raise UnreadableError(f"{type(error).__name__}: {why}" if why else type(error).__name__) from error
