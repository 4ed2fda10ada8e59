"""A million names in the memory of their letters, and the files they stand for."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np

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
