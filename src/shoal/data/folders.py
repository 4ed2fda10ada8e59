"""Image files in a folder, or a list of them; a million take little more memory than their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from shoal.data.decode import FORMATS
from shoal.data.listing import Listing, Source
from shoal.data.names import Files, Names
from shoal.errors import UserError
from shoal.files import at_home

_LOG = logging.getLogger("shoal")


def walk(folder: Path, deepest: int | None = None) -> Iterator[str]:
    """Find all files under a folder but hidden ones: in sorted order, relative to it, with '/' between the parts.

    Links are followed, and each real folder is entered once, so that a circle of links ends. With ``deepest``, files
    of more parts are left out. What shoal has written to a folder in it is passed over, and so is, with a warning, a
    folder in it that may not be listed.

    Raises:
        UserError: a folder cannot be listed.
    """
    entered: set[tuple[int, int]] = set()
    ahead = [iter(_entries(folder, entered))]
    above = [""]
    while ahead:
        entry = next(ahead[-1], None)
        if entry is None:
            ahead.pop()
            above.pop()
        elif not entry.endswith("/"):
            yield above[-1] + entry
        elif deepest is None or len(ahead) < deepest:
            above.append(above[-1] + entry)
            ahead.append(iter(_entries_below(folder / above[-1], entered)))


def _entries_below(folder: Path, entered: set[tuple[int, int]]) -> list[str]:
    try:
        found = _entries(folder, entered)
    except UserError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        _LOG.warning("%s What is in it is left out.", error)
        return []
    return [] if _is_output(folder, found) else found


def _is_output(folder: Path, entries: Sequence[str]) -> bool:
    """Tell a folder of clusters, finished or not, or a run: its tables and pictures are no images to cluster."""
    if "features/" in entries and (folder / "features" / "header.json").is_file():
        return True
    return "clustering.safetensors" in entries or {"config.yaml", "state.safetensors"} <= set(entries)


def _entries(folder: Path, entered: set[tuple[int, int]]) -> list[str]:
    """List a folder that has not been ``entered``, folders with a '/' at their end.

    With the '/', the order of the children is that of all that lies in them, so sorting goes folder by folder.
    """
    try:
        looks = folder.stat()
        if (looks.st_dev, looks.st_ino) in entered:
            return []
        entered.add((looks.st_dev, looks.st_ino))
        with os.scandir(folder) as entries:
            return sorted(f"{e.name}/" if _is_folder(e) else e.name for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_picture(name: str) -> bool:
    """Tell an image file by its extension."""
    return os.path.splitext(name)[1].lower() in FORMATS  # noqa: PTH122 - a Path for each of a million names is slow


def folder_source(folder: Path, names: Sequence[str]) -> Source:
    """Take image files in a folder, named by their paths in it.

    When all of them lie in immediate subfolders, two or more, these are the classes.

    Raises:
        UserError: there is none.
    """
    if not names:
        looked = f"shoal looked for {' '.join(FORMATS)}, .parquet, .zip and .tar"
        raise UserError(f"there are no image files in {folder}: {looked}.")
    root = folder.absolute()
    files = Files(names, os.path.join(root, "").__add__)  # noqa: PTH118 - as above

    def listing() -> Listing:
        labels, classes = subfolder_classes(names)
        return Listing(names, labels, classes, lambda: iter(files), files=files)

    return Source(("folder", str(root)), files, listing)


def subfolder_classes(names: Iterable[str]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Take the subfolders as classes if there are two or more and all names lie exactly one deep; else no labels."""
    numbers: dict[str, int] = {}
    labels: list[int] = []
    deep = True
    for name in names:
        parts = name.split("/", 2)
        deep = deep and len(parts) == 2
        labels.append(numbers.setdefault(parts[0], len(numbers)) if deep else -1)
    if not deep or len(numbers) < 2:
        return np.full(len(labels), -1), ()
    classes = tuple(sorted(numbers))
    place = np.empty(len(classes), np.int64)
    place[[numbers[name] for name in classes]] = np.arange(len(classes))
    return place[np.array(labels)], classes


def list_source(paths: Sequence[str | Path]) -> Source:
    """Take the image files of a list, in its order and named as they are there.

    Raises:
        UserError: the list is empty, or one of its files is missing.
    """
    if not paths:
        raise UserError("the list of images is empty: give at least one path.")
    ids = Names(str(path) for path in paths)
    here = Path.cwd()
    files = Files(ids, lambda name: str(here / at_home(name)))
    # Those of a Path fail on names that are too long.
    for name, file in zip(ids, files.texts(), strict=True):
        if not os.path.isfile(file):  # noqa: PTH113
            what = f"{name} is a folder" if os.path.isdir(file) else f"there is no file {name}"  # noqa: PTH112
            raise UserError(f"{what}: mend or remove it in the list of images.")
    listing = Listing(ids, np.full(len(ids), -1), (), lambda: iter(files), files=files)
    return Source(Names(chain(["list"], ids)), files, lambda: listing)
