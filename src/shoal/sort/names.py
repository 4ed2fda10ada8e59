"""Names of folders and files that are safe on any system, and different from each other."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

MAX_BYTES = 200
"""Of a name that is made here. File systems take 255, and some programs add to a name."""

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
"""Devices on Windows, whatever follows after a dot."""


_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
"""What FAT, exFAT and NTFS have in no name; the last are stray bytes, since their names are text."""


def portable_name(name: str) -> str:
    """The name itself where FAT, exFAT and NTFS can hold it, else one that is as near to it as they can."""
    plain = _REFUSED.sub("_", name)
    stem = plain.partition(".")[0]
    if stem.lower().strip() in _RESERVED:
        plain = f"{stem}_{plain[len(stem) :]}"
    return plain.rstrip(". ") or "_"


def safe_name(text: str, fallback: str) -> str:
    """A name for one file or folder: no separators, control characters or what Windows refuses, at most 200 bytes.

    A leading dot would hide it and a leading hyphen make it an option. The ending stays when a name is cut.
    """
    readable = unicodedata.normalize("NFC", text.encode("utf-8", "backslashreplace").decode())
    printable = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in readable)
    name = " ".join(re.sub(r'[<>:"/\\|?*]', " ", printable).split()).strip(". -")
    if name.partition(".")[0].lower().strip() in _RESERVED:
        name = f"{name.partition('.')[0]}_{name[len(name.partition('.')[0]) :]}"
    stem, ending = _split(name)
    return _cut(stem, ending) or fallback


def numbered(name: str, number: int) -> str:
    """``photo.jpg`` and 2 to ``photo-2.jpg``; never longer than names may be."""
    stem, ending = _split(name)
    return _cut(stem, f"-{number}{ending}")


def folder_names(clusters: Sequence[int], names: Mapping[int, str]) -> dict[int, str]:
    """A folder for each cluster: its name if it has one, else ``cluster-03``; no two the same, whatever their case."""
    width = max(2, len(str(max(clusters, default=0))))
    taken = Taken()
    return {
        cluster: taken.name("", safe_name(names.get(cluster, ""), f"cluster-{cluster:0{width}d}"))
        for cluster in sorted(clusters)
    }


class Taken:
    """Names given out in some folders. Two that differ in case alone, or in how accents are written, are one name."""

    def __init__(self) -> None:
        self._names: set[tuple[str, str]] = set()
        self._next: dict[tuple[str, str], int] = {}

    def name(self, folder: str, wanted: str) -> str:
        """The name wanted, or the first ``wanted-2`` that is free."""
        key, found = (folder, folded(wanted)), wanted
        while (folder, folded(found)) in self._names:
            self._next[key] = self._next.get(key, 1) + 1
            found = numbered(wanted, self._next[key])
        self._names.add((folder, folded(found)))
        return found


def distinct_names(wanted: Callable[[], Iterable[tuple[str, str]]], n: int) -> Iterator[str]:
    """Names for n files in folders: those wanted, or the first ``wanted-2`` that no file before it has, as ``Taken``.

    Memory is a few numbers per file: names are told apart by hashes of 64 bits. Two that fall together would number a
    file without need.

    Args:
        wanted: folder and name of each file, which are asked for twice.
        n: how many there are.
    """
    keys = np.fromiter((_key(folder, name) for folder, name in wanted()), np.int64, n)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    given: set[int] = set()
    numbers: dict[int, int] = {}

    def is_taken(key: int, row: int) -> bool:
        place = int(np.searchsorted(ordered, key))
        return key in given or (place < n and ordered[place] == key and int(order[place]) < row)

    for row, (folder, name) in enumerate(wanted()):
        own = key = int(keys[row])
        found = name
        if own in repeated or own in given:
            while is_taken(key, row):
                numbers[own] = numbers.get(own, 1) + 1
                found = numbered(name, numbers[own])
                key = _key(folder, found)
            given.add(key)
        yield found


def _key(folder: str, name: str) -> int:
    return hash((folder, folded(name)))


def folded(name: str) -> str:
    """What two names have in common that may be one file: case and the way accents are written do not count."""
    return unicodedata.normalize("NFC", name).casefold()


def _split(name: str) -> tuple[str, str]:
    ending = PurePosixPath(name).suffix
    return (name.removesuffix(ending), ending) if len(ending) <= 10 else (name, "")


def _cut(stem: str, ending: str) -> str:
    """So much of the stem that both fit."""
    room = MAX_BYTES - len(os.fsencode(ending))
    raw = os.fsencode(stem)
    if len(raw) <= room:
        return stem + ending
    return raw[:room].decode("utf-8", "ignore").rstrip(". ") + ending
