"""What there is to read, before anything is decoded: names, files, listings and sources of images."""

from __future__ import annotations

import json
import stat
import warnings
from array import array
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
from shoal.types import Images, Others

_CHUNK = 4096  # names decoded together
_CODEC = ("utf-8", "surrogateescape")  # as Python itself does with file names that are not UTF-8


class Names(Sequence[str]):
    """Immutable sequence of strings that takes one byte per character and eight per name.

    A list of Python strings takes about a hundred bytes more for each. Slices share the memory.
    """

    __slots__ = ("_array",)
    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have no hash

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._array = _large_binary(*encode_names(names))

    @classmethod
    def from_buffers(cls, text: bytearray | UInt8[np.ndarray, "b"], offsets: Int64[np.ndarray, "m"]) -> Names:
        """Share buffers such as ``encode_names`` returns, which may be memory maps.

        Raises:
            ValueError: the offsets do not fit the text.
        """
        array = _large_binary(text, offsets)
        array.validate(full=True)
        return cls._of(array)

    @classmethod
    def _of(cls, array: pa.LargeBinaryArray) -> Names:
        names = cls.__new__(cls)
        names._array = array
        return names

    def take(self, rows: Int64[np.ndarray, "m"]) -> Names:
        """Copy the names of some rows."""
        return self._of(self._array.take(pa.array(rows)))

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return self._of(self._array[index])
        name: bytes = self._array[index].as_py()
        return name.decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            chunk = self._array[start : start + _CHUNK].to_pylist()  # to_numpy imports pandas where there is one
            yield from [name.decode(*_CODEC) for name in chunk]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Names({[*self[:3]]}{', …' if len(self) > 3 else ''} of {len(self)})"


def encode_names(names: Iterable[str]) -> tuple[bytearray, Int64[np.ndarray, "m"]]:
    """Encode names as their bytes, one after the other, and the offsets at which they begin, with the end of the last.

    Raises:
        UnicodeEncodeError: a name has surrogates that no bytes decode to.
    """
    text, offsets = bytearray(), array("q", [0])
    for name in names:
        text += name.encode(*_CODEC)
        offsets.append(len(text))
    return text, np.frombuffer(offsets, np.int64)


def _large_binary(text: bytearray | UInt8[np.ndarray, "b"], offsets: Int64[np.ndarray, "m"]) -> pa.LargeBinaryArray:
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)])


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


def check_regular(file: Path) -> None:
    """Refuse pipes, devices and whatever else a read may never return from.

    Raises:
        OSError: the path is neither a regular file nor a link to one.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")


Pixels: TypeAlias = UInt8[np.ndarray, "3 _h _w"]

Look: TypeAlias = tuple[int, int, int]
"""What ``looks.look_at`` finds."""


@dataclass(frozen=True)
class Member:
    """An entry of an archive, read by ``read`` in any thread; it raises ``UnreadableError`` or ``OSError``.

    ``look`` is what ``looks.look_at`` would say of it, where it is a file whose storage has told when it was listed.
    """

    read: Callable[[], bytes]
    look: Look | None = None


@dataclass(frozen=True)
class Remote:
    """An image in a storage. ``begin`` asks for about ``n_bytes`` bytes, of which ``unpack`` makes the image file.

    Both raise as ``Member.read`` does, the former in its future.
    """

    begin: Callable[[], Future[bytes]]
    n_bytes: int
    look: Look | None = None
    unpack: Callable[[bytes], bytes] = bytes

    def read(self) -> bytes:
        """Ask for it and wait."""
        return self.unpack(self.begin().result())


Blob: TypeAlias = bytes | Path | Pixels | Samples | Member | Remote | None
"""One undecoded image: an encoded image, its file, its pixels, its samples of more than 8 bits, an archive entry, an
image in a storage, or None: missing in its table."""


@dataclass(frozen=True)
class Listing:
    """The images of a source in order, with their names, targets (class numbers, -1: none) and class names.

    ``blobs`` iterates over the images. ``held_out`` marks those of the data set's test split (empty: none),
    ``clustered`` those that take part in the clustering (empty: all). ``files`` holds the file of each image, and is
    empty for archives and tables. ``seek`` starts at a row, if that is faster than
    skipping the rows before it, and ``measure`` finds the ranges of samples of more than 8 bits, if that is faster than
    looking at every image. ``others`` is what there is beside the images. ``looks`` are those of images whose storage
    has told their sizes and times when it was listed.
    """

    ids: Sequence[str]
    targets: Sequence[int] | Int64[np.ndarray, "n"]
    classes: tuple[str, ...]
    blobs: Callable[[], Iterator[Blob]]
    held_out: Sequence[bool] = ()
    clustered: Sequence[bool] = ()
    files: Sequence[Path] = ()
    seek: Callable[[int], Iterator[Blob]] | None = None
    measure: Callable[[], Ranges] | None = None
    others: Others = field(default_factory=Others)
    looks: Int64[np.ndarray, "n 3"] | None = None

    def path(self, row: int) -> Path | None:
        """Return the file of a row's image; None in archives and tables."""
        return self.files[row] if len(self.files) else None

    def blobs_from(self, start: int) -> Iterator[Blob]:
        """Iterate over the images from row ``start`` on."""
        if self.seek is not None:
            return self.seek(start)
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
    has_looks: bool = False
    """Whether the listing, which opens no file, has ``looks``."""
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
    for file in source.files:
        digest.update(_look(file))
    digest.update(source.version.encode())
    return digest.hexdigest()


def _look(file: Path) -> bytes:
    try:
        stat = file.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return b"missing\n"
    return f"{stat.st_size} {stat.st_mtime_ns}\n".encode()
