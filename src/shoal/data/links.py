"""Files that are listed under several names: links, folders reached on two ways, one path spelled twice."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64


def other_names(path_of: Callable[[int], Path | None], candidates: Iterable[Sequence[int]]) -> Int64[np.ndarray, "m 2"]:
    """Rows whose path is another name of a file, and the row with the file's own: the one that is not by a link.

    Args:
        path_of: the path of a row; None for what lies in an archive or a table.
        candidates: groups of rows whose content is equal. No other files are looked at.
    """
    found = array("q")
    for rows in candidates:
        names: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            if (path := path_of(row)) is not None and (file := _file(path)) is not None:
                names.setdefault(file, []).append(row)
        for same in names.values():
            if len(same) < 2:
                continue
            own = next((row for row in same if _is_direct(path_of(row))), same[0])
            for row in same:
                if row != own:
                    found.extend((row, own))
    pairs = np.frombuffer(found, np.int64).reshape(-1, 2)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _file(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, which its hard links share; None where it is gone or the file system has none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def _is_direct(path: Path | None) -> bool:
    return path is not None and os.path.realpath(path) == os.path.abspath(path)  # noqa: PTH100 - it leaves links alone
