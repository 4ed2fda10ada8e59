"""Images, archives and tables in storages: ``s3://bucket/photos``, ``https://host/photos.zip`` and their like.

A file there has of a ``Path`` what the other sources need, so that they read it where it is. Nothing is copied to disk.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cache, partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Int64

from shoal.data.file_stats import NO_STAT
from shoal.data.listing import Blob, Files, FileStat, Listing, Names, Source, distinct
from shoal.data.sources.labels import no_classes, subfolder_classes
from shoal.data.sources.stored_file import StoredFile, whole_of
from shoal.data.sources.video import is_video
from shoal.data.sources.webpage import web_entries
from shoal.data.storage import Storage, entries_of, stat_from
from shoal.data.unread import unreadable
from shoal.data.urls import is_url, public
from shoal.data.video.clip import Clip
from shoal.errors import UserError
from shoal.types import Others


class StoredFolder:
    """Files under an address, sorted by name; ``/`` leads to one of them."""

    def __init__(self, storage: Storage, names: Names, paths: Names, stats: Int64[np.ndarray, "n 3"]) -> None:
        self.storage = storage
        self.names = names
        self.paths = paths
        self.stats = stats

    @classmethod
    def listed(cls, storage: Storage) -> StoredFolder:
        """List all that is under the address of a storage.

        Raises:
            UserError: it cannot be listed, or there is nothing.
        """
        if not storage.path.strip("/") and not storage.is_web and storage.scheme != "memory":
            raise UserError(f"{storage.url} names no bucket or folder: add one, as in {storage.scheme}://name/photos.")
        entries = web_entries(storage) if storage.is_web else entries_of(storage)
        found = sorted((name, path, stat_from(info)) for name, path, info in entries)
        if not found:
            raise UserError(f"there is nothing at {storage.url}: check the address.")
        names = distinct(Names(name for name, _, _ in found))
        if storage.is_web:  # links may differ in what is not part of a name
            found = sorted((name, path, stat) for name, (_, path, stat) in zip(names, found, strict=True))
            names = Names(name for name, _, _ in found)
        stats = np.array([stat for _, _, stat in found], np.int64)
        return cls(storage, names, Names(path for _, path, _ in found), stats)

    def __str__(self) -> str:
        return self.storage.url

    def absolute(self) -> StoredFolder:
        """Itself: an address holds from anywhere."""
        return self

    def __truediv__(self, name: str) -> StoredFile:
        row = bisect_left(self.names, name)
        return StoredFile(
            self.storage, self.paths[row], f"{self.storage.url.rstrip('/')}/{name}", _as_stat(self.stats[row])
        )


Folder: TypeAlias = Path | StoredFolder


def found_at(url: str) -> StoredFolder | StoredFile:
    """What there is at an address: a file, or a folder with all files under it.

    Raises:
        UserError: there is nothing, or it cannot be reached.
    """
    storage = Storage(url)
    if storage.is_web and posixpath.splitext(urlsplit(url).path)[1].lower() in ("", ".html", ".htm"):
        return StoredFolder.listed(storage)
    if not url.endswith("/") and storage.path.strip("/"):
        info = storage.described()
        is_mark = info.get("size") == 0 and not posixpath.splitext(storage.path)[1]  # some tools mark a folder so
        if info.get("type") != "directory" and not is_mark:
            return StoredFile(storage, storage.path, url, stat_from(info))
    return StoredFolder.listed(storage)


def exists_at(url: str) -> bool:
    """Whether there is a file or a folder of exactly this address.

    Raises:
        UserError: it cannot be told.
    """
    return Storage(url).has()


def folder_of(file: StoredFile) -> StoredFolder:
    """The folder of a file, in which nothing else is known."""
    return _OneFile(file)


class _OneFile(StoredFolder):
    def __init__(self, file: StoredFile) -> None:
        super().__init__(file.storage, Names([file.name]), Names([file.path]), np.array([file.stat], np.int64))
        self._file = file

    def __str__(self) -> str:
        return str(self._file).rpartition("/")[0]

    def __truediv__(self, name: str) -> StoredFile:
        return self._file


def stored_source(folder: StoredFolder, names: Names, others: Others) -> Source:
    """Read image files under an address, some of those that were listed there, in the same order."""
    rows = np.fromiter(_rows(folder.names, names), np.int64, len(names))
    stats, paths = folder.stats[rows], folder.paths.take(rows)
    known = bool((stats != NO_STAT).any(1).all())

    def blobs(start: int = 0) -> Iterator[Blob]:
        for path, stat in zip(paths[start:], stats[start:], strict=True):
            yield whole_of(folder.storage, path, _as_stat(stat))

    def clip(row: int) -> Clip | None:
        name = names[row]
        return (folder / name).clip() if is_video(name, lambda: (folder / name).head()) else None

    def listing() -> Listing:
        targets, classes = subfolder_classes(names)
        known_stats = stats if known else None
        return Listing(names, targets, classes, blobs, seek=blobs, others=others, stats=known_stats, clip=clip)

    digest = blake2b(stats.tobytes(), digest_size=16).hexdigest()
    origin = ("stored", str(folder), digest)
    return Source(origin, (), listing, others=others, stable=known, has_stats=known, version=digest)


def _rows(everything: Names, some: Names) -> Iterator[int]:
    """Where some names are among all, both in the same order."""
    wanted = iter(some)
    name = next(wanted, None)
    for row, each in enumerate(everything):
        if each == name:
            yield row
            name = next(wanted, None)


def _as_stat(row: Int64[np.ndarray, "3"]) -> FileStat:
    size, time, tag = row.tolist()
    return size, time, tag


# Addresses in lists and tables


def has_urls(paths: Iterable[str]) -> bool:
    """Whether any of some paths is an address."""
    return any("://" in path and is_url(path) for path in paths)


def blob_at(place: str) -> Blob:
    """The image at an address or a path."""
    if not is_url(place):
        return Path(place)
    parts = urlsplit(place)
    storage = _storage_of(f"{parts.scheme}://{parts.netloc}/")
    if isinstance(storage, OSError):
        return unreadable(storage)
    return whole_of(storage, storage.path_of(place), None)


@cache
def _storage_of(root: str) -> Storage | OSError:
    """The storage, or why it cannot be reached, which is a matter of its own images alone."""
    try:
        return Storage(public(root))
    except UserError as error:
        reason = error.__cause__
        if isinstance(reason, OSError):
            return reason
        raise


def located_in(folder: Folder, name: str) -> str:
    """The place that a path in a table means: an address, or else relative to the folder of the table."""
    if "://" in name and is_url(name):
        return name
    if isinstance(folder, Path):
        return str(folder / name)
    base, _, path = f"{folder}/{name}".partition("://")
    return f"{base}://{posixpath.normpath(path)}"


def blobs_at(places: Files, start: int = 0) -> Iterator[Blob]:
    """The images at addresses and paths, from one of them on."""
    return map(blob_at, places[start:].texts())


def listed_source(names: Names, places: Files) -> Source:
    """Images at addresses and paths as they are listed. What is at an address is not looked at until it is read."""
    blobs = partial(blobs_at, places)
    ids = distinct(Names(map(public, names)))
    listing = Listing(ids, no_classes(len(ids)), (), blobs, seek=blobs)
    local = [Path(place) for place in places.texts() if not is_url(place)]
    shown = Names(map(public, places.texts()))
    return Source(Names(chain(["list"], ids)), local, lambda: listing, stable=False, places=shown)
