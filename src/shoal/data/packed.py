"""Image files in zip and tar archives, which are read where they lie: nothing is unpacked to the disk.

Names in archives are only names here. They become ids as they stand, and no path is ever made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from shoal.data import tars, zips
from shoal.data.classes import classes_of
from shoal.data.entries import Part, key_of, refusing
from shoal.data.folders import subfolder_classes
from shoal.data.listing import Blob, Listing, Source, check_regular
from shoal.data.names import Names, distinct
from shoal.errors import UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""How the names of archives end."""


def is_archive(name: str) -> bool:
    """Tell an archive by its extension."""
    return name.lower().endswith(ARCHIVES)


def packed_source(root: Path, names: Sequence[str]) -> Source:
    """Take the archives ``names`` under the folder ``root``, joined in this order.

    An image is named by archive and entry, ``photos.zip/cat/1.jpg``. Labels are those of ``.cls`` members, or else
    subfolders, once the folder that all entries share is left out.
    """
    folder = root.absolute()
    files = [folder / name for name in names]
    return Source(("packed", str(folder), *names), files, lambda: _listing(files, names))


def _listing(files: Sequence[Path], names: Sequence[str]) -> Listing:
    parts = [_part(file) for file in files]
    if not any(len(part.names) for part in parts):
        damage = next((f", which is {part.damage}" for part in parts if part.damage), "")
        raise UserError(f"there are no image files in {files[0]}{' and the others' if len(files) > 1 else ''}{damage}.")

    def blobs() -> Iterator[Blob]:
        for part in parts:
            yield from part.blobs()
            if part.damage:
                yield refusing(part.damage)

    labels, classes = _labels(parts)
    return Listing(distinct(Names(_ids(parts, names))), labels, classes, blobs)


def _part(file: Path) -> Part:
    try:
        check_regular(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    return zips.part_of(file) if file.suffix.lower() == ".zip" else tars.part_of(file)


def _ids(parts: Iterable[Part], archives: Iterable[str]) -> Iterator[str]:
    """Name the images; of an archive that broke off, the archive is one more, which cannot be read."""
    for part, archive in zip(parts, archives, strict=True):
        yield from (f"{archive}/{name}" for name in part.names)
        if part.damage:
            yield archive


def _labels(parts: Sequence[Part]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    if any(part.labels for part in parts):
        numbers = (part.labels.get(key_of(name), -1) for part in parts for name in part.names)
        found, classes = classes_of(numbers)
    else:
        shared = _shared(name for part in parts for name in part.names)
        found, classes = subfolder_classes(_without_dot(name)[shared:] for part in parts for name in part.names)
    ends = np.cumsum([len(part.names) for part in parts])[[bool(part.damage) for part in parts]]
    return np.insert(found, ends, -1), classes


def _without_dot(name: str) -> str:
    return name.removeprefix("./")


def _shared(names: Iterator[str]) -> int:
    """Count the letters of the folder that all names begin with."""
    first = _without_dot(next(names))
    folder = first[: first.rfind("/") + 1]
    for name in names:
        while not _without_dot(name).startswith(folder):
            folder = folder[: folder.rfind("/", 0, -1) + 1]
    return len(folder)
