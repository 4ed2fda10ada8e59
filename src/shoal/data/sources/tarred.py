"""The entries of a tar archive, plain or compressed as a whole, on a disk or in a storage."""

from __future__ import annotations

import contextlib
import lzma
import os
import tarfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from shoal.data.decode import UnreadableError
from shoal.data.listing import Blob, Member
from shoal.data.reach import out_of_reach
from shoal.data.sources.formats import DAMAGE
from shoal.data.sources.stored_file import File, Span, StoredFile, cannot_read
from shoal.data.sources.zipped import MAX_BYTES
from shoal.data.unread import unreadable
from shoal.errors import UserError
from shoal.progress import counted

TAR_DAMAGE = (*DAMAGE, lzma.LZMAError)
"""Exceptions that reading a damaged archive may raise."""

Mode = Literal["r:", "r:gz", "r:bz2", "r:xz"]
_MAGIC: dict[bytes, Mode] = {b"\x1f\x8b": "r:gz", b"BZh": "r:bz2", b"\xfd7zXZ\0": "r:xz"}
_MAX_HEADER_BYTES = 2**20  # names are shorter
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


class _TarEntry(tarfile.TarInfo):
    """A header that raises on damage instead of ending the archive, and never reads gigabytes as a long name.

    Damage is also an end without the block of zeros that ends an archive: it was cut off between two entries. After
    that block another archive may follow, as in joined shards.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _TarEntry:
        has_ended = getattr(archive, "has_ended", False)
        try:
            found: _TarEntry = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.has_ended = True  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            if archive.offset and not has_ended:
                raise tarfile.ReadError("it ends without an end mark, perhaps cut off") from error
            raise
        except TAR_DAMAGE as error:
            if has_ended:  # what follows and is not a tar is passed over, as tar does
                raise tarfile.EmptyHeaderError(str(error)) from error  # type: ignore[attr-defined]
            raise
        archive.has_ended = False  # type: ignore[attr-defined]
        return found

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarEntry:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            # tarfile takes these for the end of the archive, unless they are its first header.
            if buf and not any(buf):  # less than a block of zeros
                raise tarfile.EOFHeaderError(str(error)) from error  # type: ignore[attr-defined]
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(str(error)) from error
            raise

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _LONG and self.size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header says {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


class TarWalk:
    """Iterates over the entries of an archive; ``damage`` says where it had to stop, if it had to."""

    def __init__(self, file: File, mode: Mode) -> None:
        self.damage = ""
        self.n_images = 0
        """Told by who walks."""
        self._file = file
        self._mode = mode

    def __iter__(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(self._file.open("rb"))
                archive = tarfile.open(  # noqa: SIM115 - below
                    None, self._mode, opened, tarinfo=_TarEntry, encoding="utf-8", ignore_zeros=True
                )
                stack.enter_context(contextlib.closing(archive))
            except TAR_DAMAGE as error:
                reason = " ".join(str(error).split())
                raise cannot_read(self._file, error) or UserError(
                    f"cannot read {self._file}: it is damaged, or not a tar archive ({reason})."
                ) from error
            yield from self._entries(archive)

    def _entries(self, archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        try:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every entry
                if entry.size < 0:  # would start again further up, forever
                    raise tarfile.ReadError(f"a header says {entry.size} bytes")
                yield entry, archive
        except TAR_DAMAGE as error:
            if out_of_reach(error):  # its drive has gone away
                away = UserError(f"cannot read {self._file}: {error}.")
                raise cannot_read(self._file, error) or away from error
            self.damage = f"damaged after {counted(self.n_images, 'image')}: {error}"


def tar_mode(file: File) -> Mode:
    """How a tar is compressed, by its first bytes.

    Raises:
        UserError: it cannot be read.
    """
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


def seek_tar(file: File, offsets: Iterable[int], sizes: Iterable[int]) -> Iterator[Blob]:
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


def stream_tar(file: File, mode: Mode, images: bytearray) -> Iterator[Blob]:
    """Read a compressed archive from its start; images that are no longer there are damaged."""
    missing = sum(images)
    for (entry, archive), wanted in zip(TarWalk(file, mode), images, strict=False):
        if wanted:
            missing -= 1
            yield _refused(-1 if entry.issparse() else entry.size) or _content_or_reason(archive, entry)
    for _ in range(missing):
        yield unreadable("damaged")


def _content_or_reason(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Blob:
    try:
        return content(archive, entry)
    except TAR_DAMAGE as error:
        if out_of_reach(error):
            raise
        return unreadable("truncated")


def content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    """The bytes of an entry.

    Raises:
        Exception: of ``TAR_DAMAGE``.
    """
    file = archive.extractfile(entry)
    data = b"" if file is None else file.read()
    if len(data) < entry.size:
        raise tarfile.ReadError("unexpected end of data")
    return data
