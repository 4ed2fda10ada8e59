"""What there is to read, before anything is decoded."""

from __future__ import annotations

import stat
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal.types import Images

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
            chunk = self._array[start : start + _CHUNK].to_numpy(zero_copy_only=False)
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


class Files(Sequence[Path]):
    """The files that names stand for, each made when it is asked for; ``locate`` writes out where a name leads to."""

    def __init__(self, names: Sequence[str], locate: Callable[[str], str]) -> None:
        self._names = names
        self._locate = locate

    def texts(self) -> Iterator[str]:
        """Write the paths out, which is ten times as quick as to make them."""
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


def distinct(names: Names) -> Names:
    """Tell equal names apart: the second ``a`` becomes ``a#2``, or the next number that is free."""
    marks = np.fromiter(map(hash, names), np.int64, len(names))
    if len(np.unique(marks)) == len(names):
        return names
    taken, times, found = set(names), dict[str, int](), []
    for name in names:
        number = times.get(name, 0) + 1
        unique = name
        while number > 1 and unique in taken:
            unique, number = f"{name}#{number}", number + 1
        times[name] = max(number - 1, 1)
        taken.add(unique)
        found.append(unique)
    return Names(found)


Pixels: TypeAlias = UInt8[np.ndarray, "3 _h _w"]


@dataclass(frozen=True)
class Member:
    """An entry of an archive. Nothing is read before ``read`` is called, in whatever thread.

    ``read`` raises an ``UnreadableError`` or an ``OSError`` where the entry cannot be had.
    """

    read: Callable[[], bytes]


Blob: TypeAlias = bytes | Path | Pixels | Member | None
"""One image: the bytes of an image file, the file, its pixels, an entry of an archive, or nothing: a table's gap."""


@dataclass(frozen=True)
class Listing:
    """The images of a source in order: names, targets (true classes, -1: none), the classes, a way to read them all.

    ``held_out`` says of each image whether it is of the data set's test part (empty: none is), ``clustered`` whether
    it takes part in the clustering (empty: all do). ``files`` are the images' own files, empty where they lie in
    archives or tables. ``later`` reads from a row on, where that is quicker than to pass over those before it.
    """

    ids: Sequence[str]
    targets: Sequence[int] | Int64[np.ndarray, "n"]
    classes: tuple[str, ...]
    blobs: Callable[[], Iterator[Blob]]
    held_out: Sequence[bool] = ()
    clustered: Sequence[bool] = ()
    files: Sequence[Path] = ()
    later: Callable[[int], Iterator[Blob]] | None = None

    def path(self, row: int) -> Path | None:
        """Say where the image of a row lies if it is a file of its own; None inside archives and tables."""
        return self.files[row] if len(self.files) else None

    def blobs_from(self, start: int) -> Iterator[Blob]:
        """Read the images from the row ``start`` on."""
        if self.later is not None:
            return self.later(start)
        return iter(self.files[start:]) if len(self.files) else islice(self.blobs(), start, None)


@dataclass(frozen=True)
class Source:
    """Images wherever they are.

    ``files`` are all files behind them, absolute; ``origin`` is what names the images besides the files.
    ``listing`` may open the files, and does so once; ``files`` has only found them. Where the images are pixels
    already, ``images`` gives them at a size, and there is nothing to decode.
    """

    origin: Sequence[str]
    files: Sequence[Path]
    listing: Callable[[], Listing]
    images: Callable[[int | None], Images] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "listing", cache(self.listing))


def check_regular(file: Path) -> None:
    """Refuse what reading may never come to the end of, such as a pipe or a device.

    Raises:
        OSError: it is not a regular file nor a link to one, or not there.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError("not a regular file")


def as_images(
    pixels: UInt8[np.ndarray, "n 3 h w"],
    targets: Sequence[int] | Int64[np.ndarray, "n"],
    classes: tuple[str, ...],
    ids: Sequence[str],
    skipped: Mapping[str, str],
    held_out: Sequence[bool] = (),
    clustered: Sequence[bool] = (),
) -> Images:
    """Share the memory of ``pixels``, be it read-only.

    ``held_out`` says of each image whether it is of the test part (empty: none is), ``clustered`` whether it takes
    part in the clustering (empty: all do).

    A memory map is to be a read-only one: of a writable private map the kernel refuses what exceeds the RAM.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written to
        tensor = torch.from_numpy(pixels)
    truth = torch.tensor(targets, dtype=torch.int64)
    takes_part = _flags(clustered, len(truth), default=True)
    return Images(tensor, truth, takes_part, classes, ids, skipped, _flags(held_out, len(truth), default=False))


def _flags(values: Sequence[bool], n: int, *, default: bool) -> Bool[Tensor, "n"]:
    return torch.tensor(values, dtype=torch.bool) if len(values) else torch.full((n,), default)
