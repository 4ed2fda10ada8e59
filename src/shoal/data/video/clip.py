"""A file that holds a video, wherever it lies: on a disk, in a storage, in an archive."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Clip:
    """A video of which frames may be taken.

    ``name`` and ``stat`` tell its content from another's: its place, and its file's size and times (``file_stats``).
    ``opened`` opens it for reading, as often as need be; it raises OSError or ``UnreadableError``. ``n_bytes`` is its
    size, −1 where nobody says it.
    """

    name: str
    stat: Callable[[], tuple[int, int, int]]
    opened: Callable[[], AbstractContextManager[IO[bytes]]]
    n_bytes: int
