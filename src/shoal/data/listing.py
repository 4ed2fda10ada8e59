"""What there is to read, before anything is decoded."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64, UInt8

from shoal.types import Images

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
    """The images of a source in order: names, labels (-1: none), the classes, a way to read them all.

    ``held_out`` says of each image whether it is of the data set's test part (empty: none is), ``clustered`` whether
    it takes part in the clustering (empty: all do). ``files`` are the images' own files, empty where they lie in
    archives or tables. ``later`` reads from a row on, where that is quicker than to pass over those before it.
    """

    ids: Sequence[str]
    labels: Sequence[int] | Int64[np.ndarray, "n"]
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
