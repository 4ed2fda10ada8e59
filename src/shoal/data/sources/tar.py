"""Images in a tar archive, be it compressed as a whole."""

from __future__ import annotations

import contextlib
import lzma
import os
import tarfile
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from shoal.data.decode import UnreadableError
from shoal.data.listing import Blob, Member, Names
from shoal.data.sources.entries import LABEL, MOST, Part, is_wanted, key_of, number_in, refusing
from shoal.data.sources.formats import DAMAGE
from shoal.errors import UserError

_DAMAGE = (*DAMAGE, lzma.LZMAError)
_Mode = Literal["r:", "r:gz", "r:bz2", "r:xz"]
_MAGIC: dict[bytes, _Mode] = {b"\x1f\x8b": "r:gz", b"BZh": "r:bz2", b"\xfd7zXZ\0": "r:xz"}
_HEADER = 2**20  # bytes of the longest header that is read: names are shorter
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _Entry(tarfile.TarInfo):
    """A header that tells damage from the end, and does not read gigabytes because it says that its name is so long."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # Such an end would be taken for the end of the archive, if it was not there that it begins.
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(str(error)) from error
            raise

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _LONG and self.size > _HEADER):
            raise tarfile.ReadError(f"a header says {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


class _Walk:
    """All regular files of an archive, one after the other, and where they broke off."""

    def __init__(self, file: Path, mode: _Mode) -> None:
        self.damage = ""
        self._file = file
        self._mode = mode

    def __iter__(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        n_images = 0
        try:
            archive = tarfile.open(self._file, self._mode, tarinfo=_Entry, encoding="utf-8")  # noqa: SIM115 - below
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise UserError(f"cannot read {self._file}: it is damaged, or no tar archive ({reason}).") from error
        with contextlib.closing(archive):
            try:
                while (entry := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                    if entry.size < 0:  # it would begin again further up, for ever
                        raise tarfile.ReadError(f"a header says {entry.size} bytes")
                    if entry.isreg():
                        yield entry, archive
                        n_images += is_wanted(entry.name)
            except _DAMAGE as error:
                self.damage = f"damaged after {n_images} images: {error}"


def tar_part(file: Path) -> Part:
    """List a tar archive by its headers. Links, devices and pipes are passed over.

    Of an archive that broke off, what lies before the damage is listed.

    Raises:
        UserError: it cannot be read from the beginning on.
    """
    mode = _mode_of(file)
    walk = _Walk(file, mode)
    offsets, sizes = array("q"), array("q")
    labels: dict[str, int] = {}

    def names() -> Iterator[str]:
        for entry, archive in walk:
            if entry.name.endswith(".cls") and entry.size <= LABEL and not entry.issparse():
                with contextlib.suppress(*_DAMAGE):
                    labels[key_of(entry.name)] = number_in(_content(archive, entry))
            elif is_wanted(entry.name):
                offsets.append(entry.offset_data)
                sizes.append(-1 if entry.issparse() else entry.size)
                yield entry.name

    found = Names(names())
    if mode == "r:":
        where = np.array(offsets, np.int64), np.array(sizes, np.int64)
        return Part(found, labels, lambda: _in_place(file, *where), walk.damage)
    return Part(found, labels, lambda: _streamed(file, mode, len(found)), walk.damage)


def _mode_of(file: Path) -> _Mode:
    try:
        with file.open("rb") as start:
            magic = start.read(6)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}.") from error
    return next((mode for begin, mode in _MAGIC.items() if magic.startswith(begin)), "r:")


def _refusal(size: int) -> Member | None:
    if size < 0:
        return refusing("a sparse entry")
    return refusing(f"{size} bytes, too many for an image") if size > MOST else None


def _in_place(file: Path, offsets: Int64[np.ndarray, "n"], sizes: Int64[np.ndarray, "n"]) -> Iterator[Blob]:
    opened = _Opened(file)
    for offset, size in zip(map(int, offsets), map(int, sizes), strict=True):
        yield _refusal(size) or opened.member(offset, size)


class _Opened:
    """A file that stays open as long as there are members of it."""

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


def _streamed(file: Path, mode: _Mode, n_images: int) -> Iterator[Blob]:
    """Read a compressed archive from its beginning; where it breaks off, the images that are missing are damaged."""
    found = 0
    for entry, archive in _Walk(file, mode):
        if found < n_images and is_wanted(entry.name):
            found += 1
            refusal = _refusal(-1 if entry.issparse() else entry.size)
            yield refusal or _bytes_of(archive, entry)
    for _ in range(found, n_images):
        yield refusing("damaged")


def _bytes_of(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Blob:
    try:
        return _content(archive, entry)
    except _DAMAGE:
        return refusing("truncated")


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    data = b"" if file is None else file.read()
    if len(data) < entry.size:
        raise tarfile.ReadError("unexpected end of data")
    return data
