"""What there is to read, before anything is decoded: image files in a folder, or a list of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from shoal.data.decode import FORMATS
from shoal.errors import UserError

Pixels: TypeAlias = UInt8[np.ndarray, "3 _h _w"]
Blob: TypeAlias = bytes | Path | Pixels | None
"""One image: the bytes of an image file, the file, its pixels, or nothing where a table has a gap."""


@dataclass(frozen=True)
class Listing:
    """The images of a source in order: names, labels (-1: none), the classes, a way to read them all.

    ``held_out`` says of each image whether it is of the data set's test part (empty: none is), ``clustered`` whether
    it takes part in the clustering (empty: all do).
    """

    ids: Sequence[str]
    labels: Sequence[int]
    classes: tuple[str, ...]
    blobs: Callable[[], Iterator[Blob]]
    held_out: Sequence[bool] = ()
    clustered: Sequence[bool] = ()


@dataclass(frozen=True)
class Source:
    """Encoded images on the disk.

    ``files`` are all files behind them, absolute; ``origin`` is what names the images besides the files.
    ``listing`` may open the files, ``files`` has only found them.
    """

    origin: Sequence[str]
    files: Sequence[Path]
    listing: Callable[[], Listing]


def walk(folder: Path) -> list[str]:
    """List all files under a folder but hidden ones: sorted, relative to it, with '/' between the parts.

    Links are followed, and each real folder is entered once, so that a circle of links ends.

    Raises:
        UserError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot list the folder {error.filename}: {error.strerror}.") from error

    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        looks = Path(here).stat()
        if (looks.st_dev, looks.st_ino) in entered:
            folders.clear()
            continue
        entered.add((looks.st_dev, looks.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(here).relative_to(folder)
        found += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)


def check_regular(file: Path) -> None:
    """Refuse what reading may never come to the end of, such as a pipe or a device.

    Raises:
        OSError: it is not a regular file nor a link to one, or not there.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")


def folder_source(folder: Path, found: Sequence[str]) -> Source:
    """Take the image files among the files ``found`` in a folder.

    When all of them lie in immediate subfolders, two or more, these are the classes.

    Raises:
        UserError: there is none.
    """
    ids = [name for name in found if Path(name).suffix.lower() in FORMATS]
    if not ids:
        looked = f"shoal looked for {' '.join(FORMATS)} and .parquet"
        raise UserError(f"there are no image files in {folder}: {looked}.")
    root = folder.absolute()
    files = [root / name for name in ids]

    def listing() -> Listing:
        parts = [name.split("/") for name in ids]
        classes = tuple(sorted({part[0] for part in parts}))
        if len(classes) < 2 or any(len(part) != 2 for part in parts):
            return Listing(ids, [-1] * len(ids), (), lambda: iter(files))
        label = {name: index for index, name in enumerate(classes)}
        return Listing(ids, [label[part[0]] for part in parts], classes, lambda: iter(files))

    return Source(("folder", str(root)), files, listing)


def list_source(paths: Sequence[str | Path]) -> Source:
    """Take the image files of a list, in its order and named as they are there.

    Raises:
        UserError: the list is empty, or one of its files is missing.
    """
    if not paths:
        raise UserError("the list of images is empty: give at least one path.")
    ids = [str(path) for path in paths]
    files = [Path(path).expanduser().absolute() for path in paths]
    missing = next((name for name, file in zip(ids, files, strict=True) if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"there is no file {missing}: mend or remove it in the list of images.")
    listing = Listing(ids, [-1] * len(ids), (), lambda: iter(files))
    return Source(("list", *ids), files, lambda: listing)
