"""The entries of a zip archive, on a disk or in a storage, where those side by side are read by one request."""

from __future__ import annotations

import io
import struct
import weakref
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import compress
from threading import Lock

from shoal.data.decode import UnreadableError
from shoal.data.listing import Blob, Member
from shoal.data.reach import out_of_reach
from shoal.data.sources.formats import DAMAGE
from shoal.data.sources.stored_file import File, Span, StoredFile, cannot_read
from shoal.data.unread import unreadable
from shoal.errors import UserError

MAX_BYTES = 2**28
"""Of an entry: Pillow opens no larger image, so more is a mistake or a bomb."""

_BOMB_BYTES, _BOMB_RATIO = 2**24, 500  # no image of this size compresses so well
_ENCRYPTED = 0x1  # zip flag
_HEADER = struct.Struct("<4s22xHH")
"""Of an entry: signature, and the lengths of its name and of what follows it (PKWARE's APPNOTE, 4.3.7)."""
_SIGNATURE = b"PK\3\4"
_LONGEST = _HEADER.size + 2 * 2**16  # bytes of a header with its name


def open_zip(file: File) -> zipfile.ZipFile:
    """Open a zip archive by its central directory.

    Raises:
        UserError: the directory is damaged or missing, or the file cannot be reached.
    """
    try:
        archive = zipfile.ZipFile(file.open() if isinstance(file, StoredFile) else file)
    except DAMAGE as error:
        raise cannot_read(file, error) or UserError(
            f"cannot read {file}: it is damaged, or not a zip archive ({error})."
        ) from error
    if archive.fp is not None:  # which the collector would find open, where both are in one cycle
        weakref.finalize(archive, archive.fp.close)
    return archive


def zip_blobs(file: File, images: bytearray) -> Iterator[Blob]:
    """Iterate over the entries that ``images`` marks with 1; the archive stays open while there are members of it."""
    archive = open_zip(file)
    wanted = compress(archive.infolist(), images)
    if isinstance(file, StoredFile):
        span = _span_of(archive, file)
        return file.parts(_refused(entry) or span(entry) for entry in wanted)
    member = _local(archive)
    return (_refused(entry) or member(entry) for entry in wanted)


def refusal(entry: zipfile.ZipInfo, max_bytes: int = MAX_BYTES) -> str:
    """Why an entry is not read, because it is encrypted or too large; '' where it is."""
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted"
    size, packed = entry.file_size, entry.compress_size
    if size > max_bytes or (size > _BOMB_BYTES and size > _BOMB_RATIO * packed):
        return f"{size} bytes unpacked, perhaps a decompression bomb"
    return ""


def _refused(entry: zipfile.ZipInfo) -> Member | None:
    reason = refusal(entry)
    return unreadable(reason) if reason else None


def _local(archive: zipfile.ZipFile) -> Callable[[zipfile.ZipInfo], Blob]:
    lock = Lock()  # the archive has one read position

    def read(entry: zipfile.ZipInfo) -> bytes:
        try:
            with lock, archive.open(entry) as opened:
                return opened.read(MAX_BYTES)  # never more than the entry's stated size
        except DAMAGE as error:
            if out_of_reach(error):
                raise
            raise UnreadableError(f"damaged: {error}") from error

    return lambda entry: Member(partial(read, entry))


def _span_of(archive: zipfile.ZipFile, file: StoredFile) -> Callable[[zipfile.ZipInfo], Span | Member]:
    """Where an entry is: from its header to where the next entry or the directory begins."""
    starts = sorted({entry.header_offset for entry in archive.infolist()} | {archive.start_dir})

    def span(entry: zipfile.ZipInfo) -> Span | Member:
        start = entry.header_offset
        behind = bisect_right(starts, start)
        end = min(starts[behind] if behind < len(starts) else file.size, start + _LONGEST + entry.compress_size)
        if end <= start:
            return unreadable("damaged: its place is outside the archive")
        return Span(start, end, partial(_unpacked, entry))

    return span


def _unpacked(entry: zipfile.ZipInfo, data: bytes) -> bytes:
    """The content of an entry that begins with its header.

    Raises:
        UnreadableError: it is damaged, or the archive has changed since its directory was read.
    """
    try:
        signature, n_name, n_extra = _HEADER.unpack_from(data)
        if signature != _SIGNATURE:
            raise UnreadableError("damaged: the archive has changed, or its directory is wrong")
        packed = io.BytesIO(data)
        packed.seek(_HEADER.size + n_name + n_extra)
        return zipfile.ZipExtFile(packed, "r", entry).read(MAX_BYTES)
    except DAMAGE as error:
        raise UnreadableError(f"damaged: {error}") from error
