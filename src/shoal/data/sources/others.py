"""What else there is beside the images: every file of a source is counted by its kind, if it is not read."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from shoal.data.content import HEAD, kind_of_content
from shoal.data.kinds import (
    DENIED,
    EMPTY,
    HIDDEN,
    IRREGULAR,
    PASSED_FOLDERS,
    UNKNOWN,
    VIDEO,
    Kind,
    kind_named,
    kind_of_name,
)
from shoal.types import Others


class Collector:
    """Counts what a source passes over, and names what may hold pictures; ``videos`` says whether frames are taken."""

    def __init__(self, *, videos: bool = False) -> None:
        self.videos = videos
        self._counts: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def add(self, kind: Kind, name: str = "") -> None:
        """Count a file or a folder that is not read."""
        self._counts[kind.name] += 1
        if kind.role != "plain":
            self._reasons[name] = kind.refusal

    def add_all(self, kind: Kind, names: Iterable[str]) -> None:
        """Count several files of a kind."""
        for name in names:
            self.add(kind, name)

    def is_image(self, name: str, head: Callable[[], bytes | Kind]) -> bool:
        """Tell whether a file is an image, or a video, that is to be read, and count it if it is not."""
        return self.read_as(name, head) is not None

    def read_as(self, name: str, head: Callable[[], bytes | Kind]) -> Kind | None:
        """The kind of an image, or a video, that is to be read; another file is counted.

        Args:
            name: the file's, which is enough for most.
            head: reads its first ``HEAD`` bytes, or says what it is that it cannot be read.
        """
        kind = kind_of_name(name)
        if kind is None:
            found = head()
            kind = found if isinstance(found, Kind) else (kind_of_content(found) or UNKNOWN) if found else EMPTY
        if kind.role == "image" or (self.videos and kind is VIDEO):
            return kind
        self.add(kind, name)
        return None

    def without_passed(self, names: Iterable[str]) -> Iterator[str]:
        """Of names of files at any depth those that are looked at, counting the others (``is_passed``)."""
        return (name for name in names if not self.is_passed(name))

    def is_passed(self, name: str) -> bool:
        """Tell hidden files and folders, and those of a system, by names with '/' between the parts, and count them."""
        for part in name.split("/"):
            folder = part.lower() in PASSED_FOLDERS
            if folder or (part.startswith(".") and part not in (".", "..")):
                self.add(kind_named(part) if folder else HIDDEN)
                return True
        return False

    def update(self, more: Collector) -> None:
        """Count what another has counted."""
        self._counts.update(more._counts)
        self._reasons |= more._reasons

    def others(self) -> Others:
        """What was passed over."""
        return Others(dict(self._counts), self._reasons)


def in_words(counts: Mapping[str, int]) -> str:
    """Say how many there are of each kind, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(kind_named(name).count(n) for name, n in ordered)


def head_of(file: Path) -> bytes | Kind:
    """Read the first ``HEAD`` bytes of a file, or say what it is that has none to read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return IRREGULAR
        with file.open("rb") as opened:
            return opened.read(HEAD)
    except FileNotFoundError:
        return IRREGULAR
    except (OSError, ValueError):
        return DENIED
