"""Image files in zip and tar archives, read in place: nothing is unpacked to disk.

Names of entries are only ids; no path is ever made of them.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import tarfile
import weakref
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from shoal.data.decode import UnreadableError
from shoal.data.kinds import DENIED, HEAD, IRREGULAR, Kind
from shoal.data.listing import Blob, Listing, Member, Names, Source, check_regular, distinct
from shoal.data.reach import out_of_reach
from shoal.data.sources.formats import DAMAGE
from shoal.data.sources.labels import classes_of, subfolder_classes
from shoal.data.sources.others import Collector, in_words
from shoal.data.sources.stored import Folder
from shoal.data.sources.stored_file import File, Span, StoredFile, cannot_read, local_files, version_of
from shoal.data.sources.zipped import MAX_BYTES, open_zip, unreadable, zip_blobs
from shoal.errors import UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""File extensions of archives."""

_DAMAGE = (*DAMAGE, lzma.LZMAError)
_MAX_LABEL_BYTES = 64  # of a .cls member: a number fits


@dataclass(frozen=True)
class _Archive:
    """An archive's image names, a function that iterates over the images, and where it is damaged, if it is.

    ``labels`` are the numbers in WebDataset's ``.cls`` members, by name without extension.
    """

    names: Names
    labels: dict[str, int]
    blobs: Callable[[], Iterator[Blob]]
    damage: str = ""


def is_archive(name: str) -> bool:
    """Tell an archive by its extension."""
    return name.lower().endswith(ARCHIVES)


def archive_source(root: Folder, names: Sequence[str], passed: Collector | None = None) -> Source:
    """Read the archives ``names`` under the folder ``root``, joined in this order; ``passed`` is what was beside them.

    An image is named by archive and entry, ``photos.zip/cat/1.jpg``. Classes are the numbers of ``.cls`` members or, if
    there are none, the subfolders below the folder that all entries share.
    """
    folder = root.absolute()
    files = [folder / name for name in names]
    origin, version = ("packed", str(folder), *names), version_of(files)
    return Source(origin, local_files(files), lambda: _listing(files, names, passed or Collector()), version=version)


def _listing(files: Sequence[File], names: Sequence[str], passed: Collector) -> Listing:
    archives = [_open_archive(file, _Sifter(name, passed)) for file, name in zip(files, names, strict=True)]
    if not any(len(archive.names) for archive in archives):
        damage = next((f", which is {archive.damage}" for archive in archives if archive.damage), "")
        more = " and the others" if len(files) > 1 else ""
        only = f": only {in_words(passed.others().counts)}" if passed.others() else ""
        raise UserError(f"there are no image files in {files[0]}{more}{damage}{only}.")

    def blobs() -> Iterator[Blob]:
        for archive in archives:
            yield from archive.blobs()
            if archive.damage:
                yield unreadable(archive.damage)

    targets, classes = _targets(archives)
    return Listing(distinct(Names(_ids(archives, names))), targets, classes, blobs, others=passed.others())


class _Sifter:
    """Tells the images of an archive from its other entries, which it counts; entry by entry, in their order."""

    def __init__(self, archive: str, passed: Collector) -> None:
        self._archive = archive
        self._passed = passed
        self.images = bytearray()
        """For each entry so far, 1 for an image."""

    def is_image(self, name: str, head: Callable[[], bytes | Kind]) -> bool:
        """Tell an image by its name, or else by its ``head``; hidden entries and thumbnails of a system are none."""
        found = not self._passed.is_passed(name) and self._passed.is_image(f"{self._archive}/{name}", head)
        self.images.append(found)
        return found

    def skip(self, kind: Kind | None = None) -> None:
        """Take an entry for none; one with a kind is counted."""
        self.images.append(0)
        if kind is not None:
            self._passed.add(kind)


def _open_archive(file: File, sifter: _Sifter) -> _Archive:
    try:
        if isinstance(file, Path):
            check_regular(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}.") from error
    return _list_zip(file, sifter) if file.suffix.lower() == ".zip" else _list_tar(file, sifter)


def _ids(archives: Iterable[_Archive], files: Iterable[str]) -> Iterator[str]:
    """Name the images; a damaged archive itself is listed as one more image, which is unreadable."""
    for archive, file in zip(archives, files, strict=True):
        yield from (f"{file}/{name}" for name in archive.names)
        if archive.damage:
            yield file


def _targets(archives: Sequence[_Archive]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    if any(archive.labels for archive in archives):
        numbers = (archive.labels.get(_stem(name), -1) for archive in archives for name in archive.names)
        targets, classes = classes_of(numbers)
    else:
        shared = _shared_folder(name for archive in archives for name in archive.names)
        names = (name.removeprefix("./") for archive in archives for name in archive.names)
        targets, classes = subfolder_classes(name[shared:] for name in names)
    ends = np.cumsum([len(archive.names) for archive in archives])
    return np.insert(targets, ends[[bool(archive.damage) for archive in archives]], -1), classes


def _shared_folder(names: Iterator[str]) -> int:
    """Return the length of the folder prefix that all names share."""
    first = next(names).removeprefix("./")
    folder = first[: first.rfind("/") + 1]
    for name in names:
        while not name.removeprefix("./").startswith(folder):
            folder = folder[: folder.rfind("/", 0, -1) + 1]
    return len(folder)


def _stem(name: str) -> str:
    """Return the name without its extension, which the members of a WebDataset sample share."""
    at = name.rfind(".")
    return name if at < 0 else name[:at]


def _label_in(text: bytes) -> int:
    """Parse a ``.cls`` member; -1, no label, if it is not one number."""
    words = text.split()
    return int(words[0]) if len(words) == 1 and words[0].isdigit() and len(words[0]) < 19 else -1


# Zip


def _list_zip(file: File, sifter: _Sifter) -> _Archive:
    """List a zip archive from its central directory.

    Raises:
        UserError: the directory is damaged or missing, as after an interrupted download.
    """
    labels: dict[str, int] = {}

    def names() -> Iterator[str]:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.is_dir() or kind not in (0, stat.S_IFREG):
                sifter.skip(None if entry.is_dir() else IRREGULAR)
            elif entry.filename.endswith(".cls") and entry.file_size <= _MAX_LABEL_BYTES:
                sifter.skip()
                with contextlib.suppress(*_DAMAGE):
                    labels[_stem(entry.filename)] = _label_in(archive.read(entry))
            elif sifter.is_image(entry.filename, partial(_head_in_zip, archive, entry)):
                yield entry.filename

    with open_zip(file) as archive:
        found = Names(names())
    return _Archive(found, labels, lambda: zip_blobs(file, sifter.images))


def _head_in_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | Kind:
    try:
        with archive.open(entry) as opened:
            return opened.read(HEAD)
    except _DAMAGE:
        return DENIED


# Tar, plain or compressed as a whole

_Mode = Literal["r:", "r:gz", "r:bz2", "r:xz"]
_MAGIC: dict[bytes, _Mode] = {b"\x1f\x8b": "r:gz", b"BZh": "r:bz2", b"\xfd7zXZ\0": "r:xz"}
_MAX_HEADER_BYTES = 2**20  # names are shorter
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _TarEntry(tarfile.TarInfo):
    """A header that raises on damage instead of ending the archive, and never reads gigabytes as a long name.

    Damage is also an end without the block of zeros that ends an archive: it was cut off between two entries.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarEntry:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # tarfile takes these for the end of the archive, unless they are its first header.
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(str(error)) from error
            if type(error).__name__ == "EmptyHeaderError":
                raise tarfile.ReadError("it ends without an end mark, perhaps cut off") from error
            raise

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _LONG and self.size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header says {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


class _TarWalk:
    """Iterates over the entries of an archive; ``damage`` says where it had to stop, if it had to."""

    def __init__(self, file: File, mode: _Mode) -> None:
        self.damage = ""
        self.n_images = 0
        """Told by who walks."""
        self._file = file
        self._mode = mode

    def __iter__(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(self._file.open("rb"))
                archive = tarfile.open(None, self._mode, opened, tarinfo=_TarEntry, encoding="utf-8")  # noqa: SIM115 - below
                stack.enter_context(contextlib.closing(archive))
            except _DAMAGE as error:
                reason = " ".join(str(error).split())
                raise cannot_read(self._file, error) or UserError(
                    f"cannot read {self._file}: it is damaged, or no tar archive ({reason})."
                ) from error
            yield from self._entries(archive)

    def _entries(self, archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        try:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every entry
                if entry.size < 0:  # would start again further up, forever
                    raise tarfile.ReadError(f"a header says {entry.size} bytes")
                yield entry, archive
        except _DAMAGE as error:
            if out_of_reach(error):  # its drive has gone away
                away = UserError(f"cannot read {self._file}: {error}.")
                raise cannot_read(self._file, error) or away from error
            self.damage = f"damaged after {self.n_images} images: {error}"


def _list_tar(file: File, sifter: _Sifter) -> _Archive:
    """List a tar archive from its headers up to the first damage, without links, devices and pipes.

    Raises:
        UserError: the first header cannot be read.
    """
    mode = _tar_mode(file)
    walk = _TarWalk(file, mode)
    offsets, sizes = array("q"), array("q")
    labels: dict[str, int] = {}

    def names() -> Iterator[str]:
        for entry, archive in walk:
            if not entry.isreg():
                sifter.skip(None if entry.isdir() else IRREGULAR)
            elif entry.name.endswith(".cls") and entry.size <= _MAX_LABEL_BYTES and not entry.issparse():
                sifter.skip()
                with contextlib.suppress(*_DAMAGE):
                    labels[_stem(entry.name)] = _label_in(_content(archive, entry))
            elif sifter.is_image(entry.name, partial(_head_in_tar, archive, entry)):
                offsets.append(entry.offset_data)
                sizes.append(-1 if entry.issparse() else entry.size)
                walk.n_images += 1
                yield entry.name

    found = Names(names())
    if mode == "r:":
        return _Archive(found, labels, lambda: _seek_tar(file, offsets, sizes), walk.damage)
    return _Archive(found, labels, lambda: _stream_tar(file, mode, sifter.images), walk.damage)


def _head_in_tar(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes | Kind:
    """Read the beginning of an entry; what is behind it is not read again, even in a compressed archive."""
    try:
        file = archive.extractfile(entry)
        return b"" if file is None else file.read(HEAD)
    except _DAMAGE:  # the walk finds it as well
        return DENIED


def _tar_mode(file: File) -> _Mode:
    try:
        with file.open("rb") as start:
            magic = start.read(6)
    except OSError as error:
        raise cannot_read(file, error) or UserError(f"cannot read {file}: {error.strerror}.") from error
    return next((mode for begin, mode in _MAGIC.items() if magic.startswith(begin)), "r:")


def _refused(size: int) -> Member | None:
    """Refuse an entry by its size, -1 if it is sparse."""
    if size < 0:
        return unreadable("a sparse entry")
    return unreadable(f"{size} bytes, too many for an image") if size > MAX_BYTES else None


def _seek_tar(file: File, offsets: Iterable[int], sizes: Iterable[int]) -> Iterator[Blob]:
    """Iterate over the images of an uncompressed archive, each of which is read at its offset in any thread."""
    places = zip(offsets, sizes, strict=True)
    if isinstance(file, StoredFile):
        return file.parts(_refused(size) or Span(offset, offset + size) for offset, size in places)
    opened = _OpenFile(file)
    return (_refused(size) or opened.member(offset, size) for offset, size in places)


class _OpenFile:
    """A file that stays open while there are members of it."""

    def __init__(self, file: Path) -> None:
        try:
            self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}.") from error
        weakref.finalize(self, os.close, self._file)

    def member(self, offset: int, size: int) -> Member:
        return Member(lambda: self._read(offset, size))

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise UnreadableError("truncated")
        return data


def _stream_tar(file: File, mode: _Mode, images: bytearray) -> Iterator[Blob]:
    """Read a compressed archive from its start; images that are no longer there are damaged."""
    missing = sum(images)
    for (entry, archive), wanted in zip(_TarWalk(file, mode), images, strict=False):
        if wanted:
            missing -= 1
            yield _refused(-1 if entry.issparse() else entry.size) or _content_or_reason(archive, entry)
    for _ in range(missing):
        yield unreadable("damaged")


def _content_or_reason(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Blob:
    try:
        return _content(archive, entry)
    except _DAMAGE as error:
        if out_of_reach(error):
            raise
        return unreadable("truncated")


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    data = b"" if file is None else file.read()
    if len(data) < entry.size:
        raise tarfile.ReadError("unexpected end of data")
    return data
