"""Decoded images on the disk, so that the second start of a data set takes a second.

    <cache>/            SHOAL_CACHE, or the user's cache folder
      <key>.u8          the pixels, raw uint8 (n, 3, h, w), which the tensor of an ``Images`` is mapped onto
      <key>.json        the rest of it: shape, ids, labels, classes, skipped, held_out, clustered
      <stamp>.key       the key of files as they lay on the disk (path, size, times), like git's index

A key is made of what the images are: of their names, labels and size, and of their bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import platformdirs

from shoal.data.listing import Files, Listing, Source, as_images
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.types import Images

_FORMAT = 2  # raise it when decoding or an entry changes: what older versions kept is then not found any more
_CHUNK = 4096  # files or names that are hashed at a time
_ABANDONED = 24 * 3600  # seconds after which an unfinished file belongs to no living process


class UnwritableError(Exception):
    """The cache cannot be written; the text says why."""


def cache_folder() -> Path:
    """Say where decoded images are kept."""
    return Path(os.environ.get("SHOAL_CACHE") or platformdirs.user_cache_dir("shoal"))


def stamp_of(source: Source, size: int | None) -> str:
    """Sum up what the files look like from outside: while that stays, they need not be opened."""
    looks = map(_look, _texts(source.files))
    return _hash(chain([_FORMAT, size], source.origin, [_texts(source.files), looks]))


def listing_key(listing: Listing, size: int | None) -> str:
    """Compute the half of a key that is known before the images are read."""
    parts = (listing.classes, listing.targets, listing.ids, listing.held_out, listing.clustered)
    return _hash([_FORMAT, size, *map(_plain, parts)])


def recall(stamp: str) -> Images | None:
    """Find the images whose files had this stamp, if they are still kept whole."""
    try:
        return load((cache_folder() / f"{stamp}.key").read_text())
    except (OSError, ValueError):
        return None


def has_any(half: str) -> bool:
    """Tell whether images of this ``listing_key`` are kept, be it with other bytes."""
    return any(cache_folder().glob(f"{half}-*.json"))


def load(key: str) -> Images | None:
    """Open the images kept under a key, their pixels a memory map; None if they are not there, whole."""
    pixels, rest = _paths(key)
    try:
        kept = json.loads(rest.read_text(encoding="utf-8"))
        shape = tuple(kept["shape"])
        flags = kept["held_out"], kept["clustered"]
        lengths = {len(kept["ids"]), len(kept["labels"]), *(len(each) or shape[0] for each in flags)}
        if lengths != {shape[0]}:
            return None
        mapped = np.memmap(pixels, np.uint8, mode="r", shape=shape)  # refuses a file that is too short
        classes = tuple(kept["classes"])
        return as_images(mapped, kept["labels"], classes, kept["ids"], kept["skipped"], *flags)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def point(stamp: str, key: str) -> None:
    """Remember the key of files with this stamp, if the cache can be written."""
    with contextlib.suppress(UserError):
        atomic_write(cache_folder() / f"{stamp}.key", key.encode())


class CacheWriter:
    """Pixels on their way into the cache: a file that nobody finds before it is whole."""

    def __enter__(self) -> CacheWriter:
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            handle, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        except OSError as error:
            raise UnwritableError(error.strerror) from error
        self._path = Path(name)
        self._file = os.fdopen(handle, "wb")
        return self

    def write(self, data: bytes) -> None:
        """Add the bytes of an image.

        Raises:
            UnwritableError: the disk is full.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise UnwritableError(error.strerror) from error

    def keep(self, key: str, shape: Sequence[int], listing: Listing, skipped: dict[str, str]) -> Images:
        """Put what was written, whose other halves are ``listing`` and ``skipped``, under its key.

        Raises:
            UnwritableError: the disk is full, or another process empties the cache.
        """
        pixels, rest = _paths(key)
        entry: dict[str, Any] = {"shape": shape, "classes": listing.classes, "skipped": skipped}
        entry |= {"ids": listing.ids, "labels": listing.targets}
        entry |= {"held_out": listing.held_out, "clustered": listing.clustered}
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._path.chmod(0o644)
            atomic_write(rest, json.dumps(entry).encode())
            self._path.replace(pixels)
        except (OSError, UserError) as error:
            raise UnwritableError(getattr(error, "strerror", None) or str(error)) from error
        images = load(key)
        if images is None:
            raise UnwritableError("what was written is gone")
        return images

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses once more what is still to be flushed
            self._file.close()
        self._path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _paths(key: str) -> tuple[Path, Path]:
    return cache_folder() / f"{key}.u8", cache_folder() / f"{key}.json"


def _texts(files: Sequence[Path]) -> Iterator[str]:
    return files.texts() if isinstance(files, Files) else map(str, files)


def _look(file: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(file)  # noqa: PTH116 - a Path for each of a million files is slow
    except (OSError, ValueError):  # a name with a zero byte
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _plain(values: Iterable[Any]) -> Iterator[Any]:
    return (value.item() if isinstance(value, np.generic) else value for value in values)


def _hash(parts: Iterable[Any]) -> str:
    """Hash ``parts`` as JSON, those that are iterators as the lists they would make: a million files take no memory."""
    digest = blake2b(digest_size=16)
    for number, part in enumerate(parts):
        digest.update(b", " if number else b"[")
        if not isinstance(part, Iterator):
            digest.update(json.dumps(part).encode())
            continue
        digest.update(b"[")
        comma = b""
        while some := list(islice(part, _CHUNK)):
            digest.update(comma + json.dumps(some)[1:-1].encode())
            comma = b", "
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()
