"""Images in a zip archive."""

from __future__ import annotations

import contextlib
import lzma
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from shoal.data.archives import DAMAGE
from shoal.data.decode import UnreadableError
from shoal.data.entries import LABEL, MOST, Part, is_wanted, key_of, number_in, refusing
from shoal.data.listing import Blob, Member
from shoal.data.names import Names
from shoal.errors import UserError

_DAMAGE = (*DAMAGE, lzma.LZMAError)
_LARGE, _RATIO = 2**24, 500  # bytes from which on no picture is packed so tight, only a bomb
_ENCRYPTED = 0x1  # the flag


def part_of(file: Path) -> Part:
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
