"""Image files in zip and tar archives, which are read where they lie: nothing is unpacked to the disk.

Names in archives are only names here. They become ids as they stand, and no path is ever made of them.
"""

from __future__ import annotations

import contextlib
import lzma
import stat
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Int64

from shoal.data.decode import UnreadableError
from shoal.data.listing import Blob, Listing, Member, Names, Source, check_regular, distinct
from shoal.data.sources.entries import LABEL, MOST, Part, is_wanted, key_of, number_in, refusing
from shoal.data.sources.folder import subfolder_classes
from shoal.data.sources.formats import DAMAGE
from shoal.data.sources.labels import classes_of
from shoal.data.sources.tar import tar_part
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
    return zip_part(file) if file.suffix.lower() == ".zip" else tar_part(file)


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


_DAMAGE = (*DAMAGE, lzma.LZMAError)
_LARGE, _RATIO = 2**24, 500  # bytes from which on no picture is packed so tight, only a bomb
_ENCRYPTED = 0x1  # the flag


def zip_part(file: Path) -> Part:
    """List a zip archive by its directory.

    Raises:
        UserError: the directory is damaged or missing, as at the end of a download that broke off.
    """
    archive = _open(file)
    names = Names(entry.filename for entry in _pictures(archive))
    labels: dict[str, int] = {}
    for entry in archive.infolist():
        if entry.filename.endswith(".cls") and entry.file_size <= LABEL:
            with contextlib.suppress(*_DAMAGE):
                labels[key_of(entry.filename)] = number_in(archive.read(entry))
    archive.close()
    return Part(names, labels, lambda: _blobs(file))


def _open(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise UserError(f"cannot read {file}: it is damaged, or no zip archive ({error}).") from error


def _pictures(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for entry in archive.infolist():
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if is_wanted(entry.filename) and kind in (0, stat.S_IFREG):
            yield entry


def _blobs(file: Path) -> Iterator[Blob]:
    opened = _Opened(file)
    for entry in _pictures(opened.archive):
        yield opened.member(entry)


class _Opened:
    """An archive that stays open as long as there are members of it."""

    def __init__(self, file: Path) -> None:
        self.archive = _open(file)
        self._lock = Lock()  # the archive has one place to read at

    def member(self, entry: zipfile.ZipInfo) -> Member:
        if entry.flag_bits & _ENCRYPTED:
            return refusing("encrypted")
        size, packed = entry.file_size, entry.compress_size
        if size > MOST or (size > _LARGE and size > _RATIO * packed):
            return refusing(f"{size} bytes unpacked, perhaps a decompression bomb")
        return Member(lambda: self._read(entry))

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        try:
            with self._lock, self.archive.open(entry) as file:
                return file.read(MOST)  # it ends where the entry's size says
        except _DAMAGE as error:
            raise UnreadableError(f"damaged: {error}") from error
