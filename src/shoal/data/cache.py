"""The on-disk cache of decoded images: the second run on a data set starts within a second.

    <cache>/            SHOAL_CACHE, or the user's cache folder
      <key>.u8          pixels, raw uint8 (n, 3, h, w), memory-mapped as the tensor of an ``Images``
      <key>.json        everything else: shape, ids, labels, classes, flags, and what was skipped, or lacks a part
      <stamp>.key       the key of files by path, size and times, like git's index

A key is a hash of the images' names, labels, size and known ranges (its prefix), and one of their bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import platformdirs

from shoal.data.file_stats import NO_STAT, stat_file
from shoal.data.greys import Ranges
from shoal.data.kinds import readers
from shoal.data.listing import Listing, Source, as_images, texts_of
from shoal.data.reading import Reading
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.types import Images, Others

_FORMAT = 3  # increment when decoding or the entries change: entries of older versions are then ignored
_CHUNK = 4096  # files or names hashed at a time
_ABANDONED = 24 * 3600  # seconds after which the writer of an unfinished file is taken for dead


class UnwritableError(Exception):
    """The cache cannot be written; the message is the reason."""


def cache_folder() -> Path:
    """Return the folder of the cache."""
    return Path(os.environ.get("SHOAL_CACHE") or platformdirs.user_cache_dir("shoal"))


def stamp_of(source: Source, size: int | None, known: Ranges | None = None) -> str:
    """Hash the paths, sizes and times of the files: while these stay the same, the files need not be opened.

    With another package of the extra ``formats``, other files are read.
    """
    stats = (None if stat == NO_STAT else stat for stat in map(stat_file, texts_of(source.files)))
    version = [source.version] if source.version else []
    settings = [_FORMAT, size, dict(known or {}), readers()]
    return _hash(chain(settings, source.origin, [texts_of(source.files), stats, *version]))


def listing_key(listing: Listing, size: int | None, known: Ranges | None = None) -> str:
    """Compute the prefix of a key, which is known before the images are read."""
    parts = (listing.classes, listing.targets, listing.ids, listing.held_out, listing.clustered)
    return _hash([_FORMAT, size, dict(known or {}), readers(), *map(_plain, parts)])


def recall(stamp: str) -> Images | None:
    """Return the cached images of files with this stamp, if the entry is complete."""
    try:
        return load((cache_folder() / f"{stamp}.key").read_text())
    except (OSError, ValueError):
        return None


def has_any(prefix: str) -> bool:
    """Tell whether there is an entry with this ``listing_key``, whatever its bytes."""
    return any(cache_folder().glob(f"{prefix}-*.json"))


def load(key: str) -> Images | None:
    """Open the images of a key, their pixels as a memory map; None if the entry is missing or incomplete."""
    pixels, metadata = _entry(key)
    try:
        kept = json.loads(metadata.read_text(encoding="utf-8"))
        shape = tuple(kept["shape"])
        flags = kept["held_out"], kept["clustered"]
        lengths = {len(kept["ids"]), len(kept["labels"]), *(len(each) or shape[0] for each in flags)}
        if lengths != {shape[0]}:
            return None
        mapped = np.memmap(pixels, np.uint8, mode="r", shape=shape)  # raises if the file is too short
        classes = tuple(kept["classes"])
        ranges = {name: (float(low), float(high)) for name, (low, high) in kept["ranges"].items()}
        images = as_images(mapped, kept["labels"], classes, kept["ids"], kept["skipped"], *flags)
        return replace(images, notes=kept["notes"], ranges=ranges, others=Others(**kept["others"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(stamp: str, key: str) -> None:
    """Save the key of files with this stamp, if the cache can be written."""
    with contextlib.suppress(UserError):
        atomic_write(cache_folder() / f"{stamp}.key", key.encode())


class CacheWriter:
    """Writes pixels to a temporary file, which becomes an entry of the cache when it is finished."""

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
        """Append the bytes of an image.

        Raises:
            UnwritableError: the disk is full.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise UnwritableError(error.strerror) from error

    def finish(self, key: str, listing: Listing, reading: Reading, ranges: Ranges) -> Images:
        """Store the pixels, which are those of ``listing``, under their key, and open the entry.

        Args:
            key: of the entry.
            listing: the images that were read.
            reading: what ``read_all`` says of them.
            ranges: by which samples of more than 8 bits were scaled.

        Raises:
            UnwritableError: the disk is full, or another process empties the cache.
        """
        pixels, metadata = _entry(key)
        shape = (len(reading.kept), 3, reading.height, reading.width)
        entry: dict[str, Any] = {"shape": shape, "classes": listing.classes, "skipped": reading.skipped}
        entry |= {"notes": reading.notes, "ranges": dict(ranges), "others": asdict(listing.others)}
        entry |= {"ids": listing.ids, "labels": listing.targets}
        entry |= {"held_out": listing.held_out, "clustered": listing.clustered}
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._path.chmod(0o644)
            atomic_write(metadata, json.dumps(entry).encode())
            self._path.replace(pixels)
        except (OSError, UserError) as error:
            raise UnwritableError(getattr(error, "strerror", None) or str(error)) from error
        images = load(key)
        if images is None:
            raise UnwritableError("another process removed the new entry")
        return images

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # on a full disk, the last flush fails again
            self._file.close()
        self._path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove unfinished files of killed processes."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _entry(key: str) -> tuple[Path, Path]:
    return cache_folder() / f"{key}.u8", cache_folder() / f"{key}.json"


def _plain(values: Iterable[Any]) -> Iterator[Any]:
    return (value.item() if isinstance(value, np.generic) else value for value in values)


def _hash(parts: Iterable[Any]) -> str:
    """Hash ``parts`` as one JSON list, iterators in it as lists, without holding a million files in memory."""
    digest = blake2b(digest_size=16)
    for number, part in enumerate(parts):
        digest.update(b", " if number else b"[")
        if not isinstance(part, Iterator):
            digest.update(json.dumps(part).encode())
            continue
        digest.update(b"[")
        comma = b""
        while chunk := list(islice(part, _CHUNK)):
            digest.update(comma + json.dumps(chunk)[1:-1].encode())
            comma = b", "
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()
