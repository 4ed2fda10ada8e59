"""Class numbers for labels of any kind, and for subfolders."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Int64

from shoal.errors import UserError


def classes_of(
    labels: Iterable[Any], names: tuple[str, ...] = (), rows: Sequence[str] = ()
) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Number the classes of labels, -1 for a missing, empty or negative label.

    Without ``names`` of the classes, the classes are the distinct labels in sorted order. ``rows`` names the images in
    error messages.

    Raises:
        UserError: a label is not a single value, or not the number of a named class.
    """
    numbers: dict[Any, int] = {}
    found: list[int] = []
    for row, label in enumerate(labels):
        if isinstance(label, list | dict) and not names:
            raise UserError(f"{rows[row]} has the label {label!r}: give each image one label, a number or a text.")
        if isinstance(label, float) and label.is_integer():
            label = int(label)  # pandas makes floats of whole numbers where one is missing
        if is_missing(label) or label == "" or (isinstance(label, int | float) and label < 0):
            found.append(-1)
        elif not names:
            found.append(numbers.setdefault(label, len(numbers)))
        elif isinstance(label, int) and label < len(names):
            found.append(int(label))
        else:
            wanted = f"as the metadata names {len(names)} classes, labels are whole numbers below {len(names)}"
            raise UserError(f"{rows[row]} has the label {label!r}: {wanted}; correct its table.")
    return (np.array(found, np.int64), names) if names else _sorted_classes(found, numbers)


def is_missing(value: object) -> bool:
    """Whether a value stands for none: None, NaN, or what pandas has in their place, NA and NaT."""
    if isinstance(value, float | np.floating | Decimal):
        return bool(value != value)
    pandas = sys.modules.get("pandas")
    return value is None or (pandas is not None and (value is pandas.NA or value is pandas.NaT))


def subfolder_classes(names: Iterable[str]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Use the subfolders as classes if there are at least two and all names lie exactly one deep; else no labels."""
    numbers: dict[str, int] = {}
    found, rest = array("i"), iter(names)
    for name in rest:
        folder, *below = name.split("/", 2)
        if len(below) != 1:
            return no_classes(len(found) + 1 + sum(1 for _ in rest)), ()
        found.append(numbers.setdefault(folder, len(numbers)))
    return _sorted_classes(found, numbers) if len(numbers) > 1 else (no_classes(len(found)), ())


def no_classes(n: int) -> Int64[np.ndarray, "n"]:
    """-1 for each of n images, read-only: one number in memory however many there are."""
    return np.broadcast_to(np.int64(-1), n)


def _sorted_classes(found: Sequence[int], numbers: Mapping[Any, int]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Renumber classes from order of appearance (``numbers``) to sorted order."""
    try:
        order = sorted(numbers)
    except TypeError:  # numbers and texts, from joined tables
        order = sorted(numbers, key=lambda label: (type(label).__name__, str(label)))
    place = np.full(len(order) + 1, -1)  # the last entry maps -1 to itself
    place[[numbers[label] for label in order]] = np.arange(len(order))
    return place[np.asarray(found, np.int32)], tuple(str(label) for label in order)
