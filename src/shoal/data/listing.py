"""What there is to read, before anything is decoded."""

from __future__ import annotations

import stat
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal.types import Images

_CHUNK = 4096  # names whose ends are looked at together
_CODEC = ("utf-8", "surrogatepass")  # names that are not UTF-8 hold lone surrogates; all of them come back


class Names(Sequence[str]):
    """Texts that take one byte a letter and eight a name; a Python list of them takes some hundred more.

    They cannot be changed. A slice shares the letters with its origin.
    """

    __slots__ = ("_ends", "_letters")
    __hash__ = None  # type: ignore[assignment]  # it equals lists, which have none

    def __init__(self, names: Iterable[str] = ()) -> None:
        letters, ends = bytearray(), array("q", [0])
        for name in names:
            letters += name.encode(*_CODEC)
            ends.append(len(letters))
        self._letters = letters
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return Names(self[row] for row in range(start, stop, step))
            part = Names()
            part._letters, part._ends = self._letters, self._ends[start : max(start, stop) + 1]
            return part
        row = range(len(self))[index]
        return self._letters[self._ends[row] : self._ends[row + 1]].decode(*_CODEC)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            ends = self._ends[start : start + _CHUNK + 1].tolist()
            for first, last in pairwise(ends):
                yield self._letters[first:last].decode(*_CODEC)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Names({[*self[:3]]}{', …' if len(self) > 3 else ''} of {len(self)})"


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
