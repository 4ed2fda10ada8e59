"""What the entries of all archives have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from shoal.data.decode import UnreadableError
from shoal.data.listing import Blob, Member, Names
from shoal.data.sources.folder import is_picture

MOST = 2**28
"""Bytes of the largest entry that is read: Pillow opens no larger image, so more is a mistake or a bomb."""
LABEL = 64
"""Bytes of the largest ``.cls`` member that is read: a number fits in."""


@dataclass(frozen=True)
class Part:
    """What an archive holds: names of its images, a way to read as many, and where it broke off, if it did.

    ``labels`` are the numbers in members ``.cls`` by the name without it, as WebDataset keeps them.
    """

    names: Names
    labels: dict[str, int]
    blobs: Callable[[], Iterator[Blob]]
    damage: str = ""


def is_wanted(name: str) -> bool:
    """Tell an image file that is not hidden by its name in an archive."""
    hidden = (part.startswith(".") and part not in (".", "..") for part in name.split("/"))
    return is_picture(name) and not any(hidden)


def key_of(name: str) -> str:
    """Name what the members of a sample share: the name without its extension."""
    return name[: name.rindex(".")]


def number_in(text: bytes) -> int:
    """Read the number that a ``.cls`` member holds; -1, no label, where it holds none."""
    words = text.split()
    return int(words[0]) if len(words) == 1 and words[0].isdigit() and len(words[0]) < 19 else -1


def refusing(reason: str) -> Member:
    """Stand for an entry that is not read, for a reason in a few words."""

    def refuse() -> NoReturn:
        raise UnreadableError(reason)

    return Member(refuse)
