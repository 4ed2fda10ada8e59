"""What there is to read, before anything is decoded: names, files, listings and sources of images."""

from __future__ import annotations

import json
import operator
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal.data.greys import Ranges, Samples, Scale
from shoal.data.video.clip import Clip
from shoal.mapped import Spool
from shoal.types import Images, Others

_CHUNK = 4096  # names decoded together
_CHECKED = 2**20  # ends of names that are checked together
_CODEC = ("utf-8", "surrogateescape")  # as Python itself does with file names that are not UTF-8


class Names(Sequence[str]):
    """Immutable sequence of strings that takes one byte per character and eight per name, in a file if they are many.

    A list of Python strings takes about a hundred bytes more for each. Slices and ``take`` share the memory.
    """

    __slots__ = ("_ends", "_rows", "_start", "_text")
    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have no hash

    def __init__(self, names: Iterable[str] = ()) -> None:
        with Spool() as text, Spool() as ends:
            write_names(names, text.write, ends.write)
            self._set(text.array(), ends.array().view(np.int64))

    def _set(
        self,
        text: UInt8[np.ndarray, "b"],
        ends: Int64[np.ndarray, "n"],
        start: int = 0,
        rows: Int64[np.ndarray, "m"] | None = None,
    ) -> Names:
        self._text, self._ends = text, ends
        self._start = start  # of the first name
        self._rows = rows  # in the order of the sequence; None: all
        return self

    @classmethod
    def from_buffers(cls, text: UInt8[np.ndarray, "b"], ends: Int64[np.ndarray, "n"]) -> Names:
        """Share what ``write_names`` wrote, which may be memory maps.

        Raises:
            ValueError: the ends do not fit the text.
        """
        last = 0
        for begin in range(0, len(ends), _CHECKED):
            part = ends[begin : begin + _CHECKED]
            if part[0] < last or (np.diff(part) < 0).any() or part[-1] > len(text):
                raise ValueError("names end before they begin, or beyond the text")
            last = int(part[-1])
        return cls.__new__(cls)._set(text, ends)

    def take(self, rows: Int64[np.ndarray, "m"]) -> Names:
        """The names of some rows."""
        known = rows if self._rows is None else self._rows[rows]
        return Names.__new__(Names)._set(self._text, self._ends, self._start, known)

    def encoded(self, start: int, stop: int) -> list[bytes]:
        """The names of a slice as their bytes."""
        if self._rows is not None:
            rows = self._rows[start:stop]
            begins, ends = np.where(rows > 0, self._ends[rows - 1], self._start), self._ends[rows]
            text = self._text.data
            return [bytes(text[a:b]) for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        ends = self._ends[start:stop]
        offsets = np.concatenate([[self._ends[start - 1] if start > 0 else self._start], ends])
        array = pa.Array.from_buffers(
            pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(self._text)]
        )
        found: list[bytes] = array.to_pylist()  # to_numpy imports pandas where there is one
        return found

    def __len__(self) -> int:
        return len(self._ends if self._rows is None else self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1 or self._rows is not None:
                return self.take(np.arange(start, stop, step))
            first = int(self._ends[start - 1]) if start > 0 else self._start
            return Names.__new__(Names)._set(self._text, self._ends[start:stop], first)
        at = operator.index(index)
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError(f"there is no name {index} of {len(self)}")
        row = at if self._rows is None else int(self._rows[at])
        begin = self._ends[row - 1] if row > 0 else self._start
        return self._text[begin : self._ends[row]].tobytes().decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            yield from [name.decode(*_CODEC) for name in self.encoded(start, start + _CHUNK)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names | list | tuple):
            return NotImplemented
        if len(self) != len(other):
            return False
        if not isinstance(other, Names):
            return all(one == two for one, two in zip(self, other, strict=True))
        starts = range(0, len(self), _CHUNK)
        return all(self.encoded(start, start + _CHUNK) == other.encoded(start, start + _CHUNK) for start in starts)

    def __repr__(self) -> str:
        return f"Names({[*self[:3]]}{', …' if len(self) > 3 else ''} of {len(self)})"


def write_names(
    names: Iterable[str], write_text: Callable[[bytes], object], write_ends: Callable[[bytes], object]
) -> None:
    """Write names as their bytes, one after the other, and the offset at which each ends, as int64.

    Raises:
        UnicodeEncodeError: a name has surrogates that no bytes decode to.
    """
    each, end = iter(names), 0
    while encoded := [name.encode(*_CODEC) for name in islice(each, _CHUNK)]:
        ends = end + np.cumsum([len(name) for name in encoded], dtype=np.int64)
        write_text(b"".join(encoded))
        write_ends(ends.tobytes())
        end = int(ends[-1])


def distinct(names: Names) -> Names:
    """Make names unique: the second ``a`` becomes ``a#2``, or the next number that is free."""
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    if len(np.unique(hashes)) == len(names):
        return names
    taken, counts, found = set(names), dict[str, int](), []
    for name in names:
        number = counts.get(name, 0) + 1
        unique = name
        while number > 1 and unique in taken:
            unique, number = f"{name}#{number}", number + 1
        counts[name] = max(number - 1, 1)
        taken.add(unique)
        found.append(unique)
    return Names(found)


class Files(Sequence[Path]):
    """The file of each name, as a ``Path`` that is made on access; ``locate`` gives the path of a name as text."""

    def __init__(self, names: Sequence[str], locate: Callable[[str], str]) -> None:
        self._names = names
        self._locate = locate

    def text(self, row: int) -> str:
        """The path of a row as text."""
        return self._locate(self._names[row])

    def take(self, rows: Int64[np.ndarray, "m"]) -> Files:
        """The files of some rows, which may repeat."""
        names = self._names if isinstance(self._names, Names) else Names(self._names)
        return Files(names.take(rows), self._locate)

    def texts(self) -> Iterator[str]:
        """Iterate over the paths as text, ten times as fast as over ``Path`` objects."""
        return map(self._locate, self._names)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Files: ...
    def __getitem__(self, index: int | slice) -> Path | Files:
        if isinstance(index, slice):
            return Files(self._names[index], self._locate)
        return Path(self._locate(self._names[index]))

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.texts())


def texts_of(files: Sequence[Path]) -> Iterator[str]:
    """Paths as text, from ``Files`` without a ``Path`` for each."""
    return files.texts() if isinstance(files, Files) else map(str, files)


def check_regular(file: Path) -> None:
    """Refuse pipes, devices and whatever else a read may never return from.

    Raises:
        OSError: the path is neither a regular file nor a link to one.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")


Pixels: TypeAlias = UInt8[np.ndarray, "3 _h _w"]

FileStat: TypeAlias = tuple[int, int, int]
"""What ``file_stats.stat_file`` finds."""


@dataclass(frozen=True)
class Member:
    """An entry of an archive, read by ``read`` in any thread; it raises ``UnreadableError`` or ``OSError``.

    ``stat`` is what ``file_stats.stat_file`` would say of it, where it is a file whose storage has listed that.
    """

    read: Callable[[], bytes]
    stat: FileStat | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video, of which ``read`` makes pixels in any thread; it raises ``UnreadableError``.

    It takes ``n_bytes`` of memory, and ``stat`` are size and times of the video before it was opened (``file_stats``).
    """

    read: Callable[[], Pixels | Samples]
    n_bytes: int
    stat: tuple[int, int, int]


@dataclass(frozen=True)
class Remote:
    """An image in a storage. ``begin`` asks for about ``n_bytes`` bytes, of which ``unpack`` makes the image file.

    Both raise as ``Member.read`` does, the former in its future.
    """

    begin: Callable[[], Future[bytes]]
    n_bytes: int
    stat: FileStat | None = None
    unpack: Callable[[bytes], bytes] = bytes

    def read(self) -> bytes:
        """Ask for it and wait."""
        return self.unpack(self.begin().result())


Blob: TypeAlias = bytes | Path | Pixels | Samples | Member | Frame | Remote | None
"""One undecoded image: an encoded image, its file, its pixels, its samples of more than 8 bits, an archive entry, a
frame of a video, an image in a storage, or None: missing in its table."""


@dataclass(frozen=True)
class Listing:
    """The images of a source in order, with their names, targets (class numbers, -1: none) and class names.

    ``blobs`` iterates over the images. ``held_out`` marks those of the data set's test split (empty: none),
    ``clustered`` those that take part in the clustering (empty: all). ``files`` holds the file of each image, and is
    empty for archives and tables; for a frame it is the video, and ``times`` has the frame's microseconds, −1 for other
    images (empty: there are no videos). ``seek`` starts at a row, if that is faster than skipping the rows before it,
    ``select`` iterates over some rows, which ascend, and ``measure`` finds the ranges of samples of more than 8 bits,
    if that is faster than looking at every image. ``others`` is what there is beside the images. ``stats``
    are those of images whose storage has told their sizes and times when it was listed. ``clip`` says of a row that has
    no file here whether it is a video, of which frames are yet to be taken.
    """

    ids: Sequence[str]
    targets: Sequence[int] | Int64[np.ndarray, "n"]
    classes: tuple[str, ...]
    blobs: Callable[[], Iterator[Blob]]
    held_out: Sequence[bool] = ()
    clustered: Sequence[bool] = ()
    files: Sequence[Path] = ()
    times: Int64[np.ndarray, "n"] | Sequence[int] = ()
    seek: Callable[[int], Iterator[Blob]] | None = None
    select: Callable[[Sequence[int]], Iterator[Blob]] | None = None
    measure: Callable[[], Ranges] | None = None
    others: Others = field(default_factory=Others)
    stats: Int64[np.ndarray, "n 3"] | None = None
    clip: Callable[[int], Clip | None] | None = None

    def path(self, row: int) -> Path | None:
        """Return the file of a row's image; None in archives, tables, videos and storages."""
        return self.files[row] if len(self.files) and not self.is_frame(row) else None

    def paths(self, rows: Int64[np.ndarray, "m"]) -> Sequence[Path | None]:
        """``path`` of some rows."""
        if isinstance(self.files, Files) and not len(self.times):
            return self.files.take(rows)
        return [self.path(row) for row in rows.tolist()]

    def is_frame(self, row: int) -> bool:
        """Tell whether a row's image is a frame of a video."""
        return len(self.times) > 0 and self.times[row] >= 0

    def blobs_from(self, start: int) -> Iterator[Blob]:
        """Iterate over the images from row ``start`` on."""
        if self.seek is not None:
            return self.seek(start)
        if self.select is not None:
            return self.select(range(start, len(self.ids)))
        return iter(self.files[start:]) if len(self.files) else islice(self.blobs(), start, None)


@dataclass(frozen=True)
class Source:
    """A place that images come from.

    ``origin`` and ``files`` (all files behind the images, absolute) identify the images for the cache. ``listing`` may
    open the files; it runs once. Where the images are an array already, ``images`` returns them at a size and scale.
    """

    origin: Sequence[str]
    files: Sequence[Path]
    listing: Callable[[], Listing]
    images: Callable[[int | None, Scale], Images] | None = None
    others: Others | None = None
    """What there is beside the images, where it is known before they are listed, and not part of the listing."""
    stable: bool = True
    """Whether origin and files tell these images from those of another time; else they are read to be told apart."""
    places: Sequence[str] = ()
    """Where each image of a list is, if not all are files on this machine."""
    has_stats: bool = False
    """Whether the listing, which opens no file, has ``stats``."""
    version: str = ""
    """Tells the images from those of another time where the files behind them are in a storage."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "listing", cache(self.listing))


def as_images(
    pixels: UInt8[np.ndarray, "n 3 h w"],
    targets: Sequence[int] | Int64[np.ndarray, "n"],
    classes: tuple[str, ...],
    ids: Sequence[str],
    skipped: Mapping[str, str],
    held_out: Sequence[bool] = (),
    clustered: Sequence[bool] = (),
) -> Images:
    """Build ``Images`` that share the memory of ``pixels``, which may be read-only; flags as in ``Listing``.

    Map files read-only: the kernel refuses a writable private map larger than the RAM.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # never written to
        tensor = torch.from_numpy(pixels)
    return Images(
        pixels=tensor,
        targets=torch.tensor(targets, dtype=torch.int64),
        clustered=_flags(clustered, len(pixels), default=True),
        classes=classes,
        ids=ids,
        skipped=skipped,
        held_out=_flags(held_out, len(pixels), default=False),
    )


def _flags(values: Sequence[bool], n: int, *, default: bool) -> Bool[Tensor, "n"]:
    return torch.tensor(values, dtype=torch.bool) if len(values) else torch.full((n,), default)


def others_of(source: Source) -> Others:
    """What there is in a source beside its images."""
    return source.listing().others if source.others is None else source.others


def source_digest(source: Source, listing: Listing) -> str:
    """Tells these images from others by their names and targets, and by the size and time of each file."""
    digest = blake2b(digest_size=16)
    digest.update(json.dumps([len(listing.ids), listing.classes]).encode())
    for name, target in zip(listing.ids, listing.targets, strict=True):
        digest.update(f"{name}\0{int(target)}\n".encode("utf-8", "surrogateescape"))
    for file in source.files.texts() if isinstance(source.files, Files) else map(str, source.files):
        digest.update(_size_and_time(file))
    digest.update(source.version.encode())
    return digest.hexdigest()


def _size_and_time(file: str) -> bytes:
    try:
        stat = os.stat(file)  # noqa: PTH116 - a Path for each of a million files is slow
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return b"missing\n"
    return f"{stat.st_size} {stat.st_mtime_ns}\n".encode()
