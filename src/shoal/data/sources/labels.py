"""Class numbers for labels of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from shoal.errors import UserError


def classes_of(
    labels: Iterable[Any], names: tuple[str, ...] = (), rows: Sequence[str] = ()
) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Give every label its class number, -1 for one that is missing or negative.

    Without ``names`` of the classes, the distinct labels in order are the classes. ``rows`` are the names of the
    images, for what there is to complain about.

    Raises:
        UserError: a label is no number of a class that has a name, or is not a single value.
    """
    numbers: dict[Any, int] = {}
    found: list[int] = []
    for row, label in enumerate(labels):
        if isinstance(label, list | dict) and not names:
            raise UserError(f"{rows[row]} has the label {label!r}: give each image one label, a number or a text.")
        if label is None or label != label or (isinstance(label, int) and label < 0):
            found.append(-1)
        elif not names:
            found.append(numbers.setdefault(label, len(numbers)))
        elif isinstance(label, int) and label < len(names):
            found.append(int(label))
        else:
            wanted = f"as the metadata names {len(names)} classes, labels are whole numbers below {len(names)}"
            raise UserError(f"{rows[row]} has the label {label!r}: {wanted}; mend its table.")
    if names:
        return np.array(found, np.int64), names
    order = _sorted(numbers)
    place = np.full(len(order) + 1, -1)  # the last place is that of -1
    place[[numbers[label] for label in order]] = np.arange(len(order))
    return place[np.array(found, np.int64)], tuple(str(label) for label in order)


def _sorted(labels: Iterable[Any]) -> list[Any]:
    try:
        return sorted(labels)
    except TypeError:  # numbers and texts, of tables that were joined
        return sorted(labels, key=lambda label: (type(label).__name__, str(label)))
