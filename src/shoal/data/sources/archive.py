"""Image files in zip and tar archives, read in place: nothing is unpacked to disk.

Names of entries are only ids; no path is ever made of them.
"""

from __future__ import annotations

import contextlib
import stat
import tarfile
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64

from shoal.data.content import HEAD
from shoal.data.decode import UnreadableError
from shoal.data.file_stats import NO_STAT, stat_file
from shoal.data.kinds import DENIED, IRREGULAR, PACKED_VIDEO, VIDEO, Kind
from shoal.data.listing import Blob, Listing, Names, Source, check_regular, distinct
from shoal.data.sources.labels import classes_of, subfolder_classes
from shoal.data.sources.others import Collector, in_words
from shoal.data.sources.stored import Folder
from shoal.data.sources.stored_file import File, local_files, version_of
from shoal.data.sources.tarred import TAR_DAMAGE, TarWalk, content, seek_tar, stream_tar, tar_mode
from shoal.data.sources.zipped import open_zip, refusal, zip_blobs
from shoal.data.unread import unreadable
from shoal.data.video.clip import Clip
from shoal.errors import UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""File extensions of archives."""

_MAX_VIDEO_BYTES = 2**40  # more is a mistake
_MAX_LABEL_BYTES = 64  # of a .cls member: a number fits


@dataclass(frozen=True)
class _Archive:
    """An archive's image names, a function that iterates over the images, and where it is damaged, if it is.

    ``labels`` are the numbers in WebDataset's ``.cls`` members, by name without extension.
    """

    names: Names
    labels: dict[str, int]
    blobs: Callable[[], Iterator[Blob]]
    clips: dict[int, Clip]
    """Videos among the images, by their rows."""
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
    ids, clips = distinct(Names(_ids(archives, names))), _all_clips(archives)
    return Listing(ids, targets, classes, blobs, others=passed.others(), clip=clips.get)


def _all_clips(archives: Iterable[_Archive]) -> dict[int, Clip]:
    """Videos by the rows that they have among the images of all archives, as ``_ids`` names them."""
    found, start = dict[int, Clip](), 0
    for archive in archives:
        found |= {start + row: clip for row, clip in archive.clips.items()}
        start += len(archive.names) + bool(archive.damage)
    return found


class _Sifter:
    """Tells the images of an archive from its other entries, which it counts; entry by entry, in their order."""

    def __init__(self, archive: str, passed: Collector) -> None:
        self._archive = archive
        self._passed = passed
        self.images = bytearray()
        """For each entry so far, 1 for an image."""
        self.clips: dict[int, Clip] = {}
        """Of images so far, those that are videos."""
        self._n_images = 0

    def is_image(self, name: str, head: Callable[[], bytes | Kind], clip: Callable[[], Clip] | None) -> bool:
        """Tell an image by its name, or else by its ``head``; hidden entries and thumbnails of a system are none.

        A video is one if videos are asked for; None for ``clip``, which makes it, says that it cannot be read here.
        """
        kind = None if self._passed.is_passed(name) else self._passed.read_as(f"{self._archive}/{name}", head)
        if kind is VIDEO and clip is None:
            self.skip(PACKED_VIDEO, f"{self._archive}/{name}")
            return False
        self.images.append(kind is not None)
        if kind is VIDEO and clip is not None:
            self.clips[self._n_images] = clip()
        self._n_images += kind is not None
        return kind is not None

    def skip(self, kind: Kind | None = None, name: str = "") -> None:
        """Take an entry for none; one with a kind is counted."""
        self.images.append(0)
        if kind is not None:
            self._passed.add(kind, name)


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
    at = name.rfind(".", name.rfind("/") + 1)
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
    again = cache(partial(open_zip, file))  # once for all videos, each of which would read the directory

    def names() -> Iterator[str]:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.is_dir() or kind not in (0, stat.S_IFREG):
                sifter.skip(None if entry.is_dir() else IRREGULAR)
            elif entry.filename.endswith(".cls") and entry.file_size <= _MAX_LABEL_BYTES:
                sifter.skip()
                with contextlib.suppress(*TAR_DAMAGE):
                    labels[_stem(entry.filename)] = _label_in(archive.read(entry))
            else:
                head, clip = partial(_head_in_zip, archive, entry), partial(_clip_in_zip, file, again, entry)
                if sifter.is_image(entry.filename, head, clip):
                    yield entry.filename

    with open_zip(file) as archive:
        found = Names(names())
    return _Archive(found, labels, lambda: zip_blobs(file, sifter.images), sifter.clips)


def _clip_in_zip(file: File, archive: Callable[[], zipfile.ZipFile], entry: zipfile.ZipInfo) -> Clip:
    def begin(stack: contextlib.ExitStack) -> IO[bytes]:
        if refused := refusal(entry, _MAX_VIDEO_BYTES):
            raise UnreadableError(refused)
        return stack.enter_context(archive().open(entry))

    return _clip_in(file, f"{entry.filename} {entry.header_offset} {entry.CRC}", begin, entry.file_size)


def _clip_in(file: File, name: str, begin: Callable[[contextlib.ExitStack], IO[bytes]], n_bytes: int) -> Clip:
    """A video in an archive, which ``begin`` opens, and the stack closes."""

    @contextlib.contextmanager
    def opened() -> Iterator[IO[bytes]]:
        with contextlib.ExitStack() as stack:
            try:
                found = begin(stack)
            except (OSError, UserError, UnreadableError):
                raise
            except TAR_DAMAGE as error:
                raise UnreadableError(f"damaged: {error}") from error
            yield found

    stat = stat_file(file) if isinstance(file, Path) else file.stat
    return Clip(f"{file} {stat} {name}", lambda: NO_STAT, opened, n_bytes)


def _head_in_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | Kind:
    try:
        with archive.open(entry) as opened:
            return opened.read(HEAD)
    except TAR_DAMAGE:
        return DENIED


# Tar, plain or compressed as a whole


def _list_tar(file: File, sifter: _Sifter) -> _Archive:
    """List a tar archive from its headers up to the first damage, without links, devices and pipes.

    Raises:
        UserError: the first header cannot be read.
    """
    mode = tar_mode(file)
    walk = TarWalk(file, mode)
    offsets, sizes = array("q"), array("q")
    labels: dict[str, int] = {}

    def names() -> Iterator[str]:
        for entry, archive in walk:
            if not entry.isreg():
                sifter.skip(None if entry.isdir() else IRREGULAR)
            elif entry.name.endswith(".cls") and entry.size <= _MAX_LABEL_BYTES and not entry.issparse():
                sifter.skip()
                with contextlib.suppress(*TAR_DAMAGE):
                    labels[_stem(entry.name)] = _label_in(content(archive, entry))
            elif sifter.is_image(
                entry.name,
                partial(_head_in_tar, archive, entry),
                partial(_clip_in_tar, file, entry) if mode == "r:" else None,
            ):
                offsets.append(entry.offset_data)
                sizes.append(-1 if entry.issparse() else entry.size)
                walk.n_images += 1
                yield entry.name

    found = Names(names())
    if mode == "r:":
        return _Archive(found, labels, lambda: seek_tar(file, offsets, sizes), sifter.clips, walk.damage)
    return _Archive(found, labels, lambda: stream_tar(file, mode, sifter.images), sifter.clips, walk.damage)


def _clip_in_tar(file: File, entry: tarfile.TarInfo) -> Clip:
    def begin(stack: contextlib.ExitStack) -> IO[bytes]:
        archive = stack.enter_context(tarfile.open(None, "r:", stack.enter_context(file.open("rb"))))  # noqa: SIM115
        found = archive.extractfile(entry)
        assert found is not None  # it is a regular one
        return found

    return _clip_in(file, f"{entry.name} {entry.offset_data} {entry.size} {entry.mtime}", begin, entry.size)


def _head_in_tar(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes | Kind:
    """Read the beginning of an entry; what is behind it is not read again, even in a compressed archive."""
    try:
        file = archive.extractfile(entry)
        return b"" if file is None else file.read(HEAD)
    except TAR_DAMAGE:  # the walk finds it as well
        return DENIED
