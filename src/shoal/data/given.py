"""Images given in Python, in whatever a program has them, as ``Images``.

Items are read once, one after the other, decoded in threads and written to a file without a name that is mapped: a
data set is never in memory as objects. Nothing tells whether a data set has changed, so it is read again every time.
"""

from __future__ import annotations

import dataclasses
import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from shoal.data.cache import cache_folder
from shoal.data.decode import UnreadableError
from shoal.data.greys import Ranges, Samples, Scale
from shoal.data.images import images_of
from shoal.data.listing import Blob, Listing, Source, as_images
from shoal.data.reading import measured_ranges, read_all
from shoal.data.sources.array import images_from_array
from shoal.data.sources.find import find_source
from shoal.data.sources.item import blob_of, image_of, label_of
from shoal.data.sources.items import Items, as_paths, items_of, read_item
from shoal.data.sources.labels import classes_of
from shoal.data.sources.video import check_has_videos
from shoal.data.unread import reading_notes, unreadable
from shoal.errors import UserError
from shoal.progress import ProgressCallback
from shoal.types import Images

_LOG = logging.getLogger("shoal")


@dataclass(frozen=True, eq=False)
class Given:
    """The images of what was given, and which of its ``n`` items each of them is."""

    images: Images
    rows: Int64[np.ndarray, "m"]
    n: int

    def in_order(self, values: Tensor, missing: float) -> NDArray[Any]:
        """A row for each item: those that could not be read get ``missing``."""
        found: NDArray[Any] = values.cpu().numpy()
        if len(self.rows) == self.n:
            return found
        aligned = np.full((self.n, *found.shape[1:]), missing, dtype=found.dtype)
        aligned[self.rows] = found
        return aligned


def to_images(
    given: Any,
    *,
    root: str = "",
    every: str = "",
    size: int | None = None,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Images:
    """Read images from whatever ``read_given`` takes."""
    found = read_given(given, root=root, every=every, size=size, ranges=ranges, strict=strict, progress=progress)
    return found.images


def read_given(
    given: Any,
    *,
    root: str = "",
    every: str = "",
    any_videos: bool = False,
    size: int | None = None,
    ranges: Ranges | None = None,
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> Given:
    """Read images from a path, an array, a tensor, a data set, or any other collection of images.

    Paths are what ``find_source`` takes. Arrays are (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w): whole numbers,
    or float in [0, 1]. ``Images`` are returned unchanged. All else holds items: images of Pillow's, arrays, tensors,
    bytes or paths of files, alone, before a label in a tuple, or under a key of a dictionary (``items_of``).

    Samples of more than 8 bits are scaled by the range of their type in ``ranges``, else by what the file states, else
    by one range for all images, which is then in ``Images.ranges``. Images that cannot be read are skipped with one
    warning; ``Images.skipped`` has the reasons.

    Args:
        given: the images.
        root: folder with the files of a named data set.
        every: how often a frame of a video is taken, such as 2s, or scene; "" reads no videos.
        any_videos: ``every`` is for videos if there are any, as in what is predicted; else there have to be some.
        size: the short side is resized to this many pixels and the central square cropped; None keeps the size.
        ranges: values that become black and white, by type of number.
        strict: whether to fail on the first image that cannot be read.
        progress: called after each decoded image, with how many are done and how many there are, as far as is known.

    Raises:
        UserError: there is nothing at the path, no image can be read, or a data set cannot be downloaded; images differ
            in size and no ``size`` is given; an array or item does not hold images; or, if ``strict``, one cannot be
            read.
    """
    if isinstance(given, Images):
        return _whole(given)
    if isinstance(given, Tensor) or (isinstance(given, np.ndarray) and given.dtype.kind not in "OUT"):
        return _whole(images_from_array(given, "array", size, Scale(ranges)))
    paths = given if isinstance(given, str | Path) else as_paths(given)
    if paths is None:
        return _read_items(items_of(given), size, ranges or {}, strict, progress)
    source = find_source(paths, root=root, every=every, progress=progress)
    if not any_videos:
        check_has_videos(source, every, str(given) if isinstance(given, str | Path) else "the list")
    images = images_of(source, size=size, ranges=ranges, strict=strict, progress=progress)
    return _whole(images) if isinstance(given, str | Path) else _of_listed(images, source)


def _whole(images: Images) -> Given:
    return Given(images, np.arange(len(images)), len(images))


def _of_listed(images: Images, source: Source) -> Given:
    ids = source.listing().ids
    rows = [row for row, name in enumerate(ids) if name not in images.skipped]
    return Given(images, np.array(rows, np.int64), len(ids))


def _read_items(
    items: Items, size: int | None, known: Ranges, strict: bool, progress: ProgressCallback | None
) -> Given:
    seen = _Seen(items, known)
    listing = Listing(seen.names, (), (), seen.blobs)
    scale = Scale(known, seen.measure)

    def told(done: int, _total: int) -> None:
        if progress is not None:
            progress(done, items.n or done)

    with _Spool() as spool:
        reading = read_all(listing, size, spool.write, scale=scale, strict=strict, progress=told)
        pixels = spool.pixels((len(reading.kept), 3, reading.height, reading.width))
    targets, classes = seen.targets()
    rows = np.array(reading.kept, np.int64)
    images = as_images(pixels, targets[rows], classes, [seen.names[row] for row in reading.kept], reading.skipped)
    for line in reading_notes(images.skipped, reading.notes, len(images)):
        _LOG.warning(line)
    return Given(dataclasses.replace(images, notes=reading.notes, ranges=scale.ranges), rows, len(seen.names))


@dataclass(eq=False)
class _Seen:
    """Passes over items, and what was seen of them on the way."""

    items: Items
    known: Ranges
    names: list[str] = field(default_factory=list)
    labels: list[object] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)
    """A data set is asked for one item at a time: it may not be made for threads."""

    def blobs(self) -> Iterator[Blob]:
        """All images, while names and labels are noted.

        Raises:
            UserError: there are none.
        """
        for name, blob, label in self._pass():
            self.names.append(name)
            self.labels.append(label)
            yield blob
        if not self.names:
            again = "make a new one for each call, since it can be read only once" if self.items.once else ""
            raise UserError(f"there are no images in what was given: {again or 'give at least one image'}.")

    def measure(self) -> Ranges:
        """Look at all images of more than 8 bits once more, for the values that become black and white.

        Raises:
            UserError: they cannot be read again.
        """
        if self.items.once:
            raise UserError(
                "images of more than 8 bits are read twice, first to find black and white, and a generator can be read "
                "only once: give a list or a data set, or say what is black and white (settings={'data.range': (low, "
                "high)})."
            )

        def unstated() -> Iterator[Blob]:
            for _, blob, _ in self._pass():
                yield None if isinstance(blob, Samples) and blob.stated is not None else blob

        return measured_ranges(Listing((), (), (), unstated))

    def targets(self) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
        """Number of the class of each item, and the names of the classes."""
        if ... in self.labels:
            _LOG.warning("labels that are not single values are left out: there is nothing to compare clusters with")
        labels = [None if label is ... else label for label in self.labels]
        n = len(self.items.classes)
        numbered = all(label is None or (isinstance(label, int) and label < n) for label in labels)
        return classes_of(labels, self.items.classes if numbered else (), self.names)

    def _pass(self) -> Iterator[tuple[str, Blob, object]]:
        reads, paths = self.items.each(), set[str]()
        for index in count():
            with self._lock:
                read = next(reads, None)
                if read is None:
                    return
                name, blob, label = self._read(read, index)
            if name in paths:
                name = f"{name}#{index}"
            elif isinstance(blob, Path):
                paths.add(name)
            yield name, blob, label

    def _read(self, read: Callable[[], object], index: int) -> tuple[str, Blob, object]:
        """Name, image and label of an item."""
        name, label = str(index) if self.items.names is None else self.items.names[index], None
        try:
            item = read_item(read)
            label = label_of(item)
            image = image_of(item)
            if self.items.names is None and isinstance(image, str | os.PathLike):
                name = os.fspath(image)
            return name, blob_of(image, f"image {name}", self.known), label
        except UserError:
            raise
        except UnreadableError as error:
            return name, unreadable(str(error)), label
        except Exception as error:  # a file of Pillow's that is damaged, a tensor without values
            return name, unreadable(" ".join(str(error).split()).rstrip(".") or type(error).__name__), label


class _Spool:
    """Pixels in a file of the cache's folder that has no name and goes with its last map, or else in memory."""

    def __enter__(self) -> _Spool:
        self._file: IO[bytes] | None = None
        self._buffer = bytearray()
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            # A buffer would keep what a full disk has not taken, and no one else could have it.
            self._file = tempfile.TemporaryFile(dir=cache_folder(), buffering=0)
        except OSError as error:
            self._stay_in_memory(error)
        return self

    def write(self, data: bytes) -> None:
        """Append the bytes of an image; once the disk is full, all are kept in memory."""
        if self._file is not None:
            start, rest = self._file.tell(), memoryview(data)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                return
            except OSError as error:
                if start:
                    with mmap.mmap(self._file.fileno(), start, access=mmap.ACCESS_READ) as written:
                        self._buffer += written
                self._file.close()
                self._file = None
                self._stay_in_memory(error)
        self._buffer += data

    def pixels(self, shape: tuple[int, int, int, int]) -> UInt8[np.ndarray, "n 3 h w"]:
        """Map what was written."""
        if self._file is None:
            return np.frombuffer(self._buffer, np.uint8).reshape(shape)
        return np.memmap(self._file, np.uint8, mode="r", shape=shape)

    def _stay_in_memory(self, error: OSError) -> None:
        folder = cache_folder()
        _LOG.warning("cannot write pixels to %s (%s): they stay in memory; set SHOAL_CACHE.", folder, error.strerror)

    def __exit__(self, *_exception: object) -> None:
        if self._file is not None:
            self._file.close()
