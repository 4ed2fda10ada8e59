"""What a sorting is about to do, on the disk before it does it, so that it can be undone wherever it ended.

sorted.jsonl, one JSON object per line:
  {"format": 1, "how": "move", "part": ".shoal-x.part", "folders": ["", "cats"],   folders it makes; "" is its own
   "holders": [["/photos/b.zip", 4096, 1700000000000000000]], "into": "/sorted"}   archives: their size and time
  {"source": "/photos/a.jpg", "target": "cats/a.jpg", "digest": ""}                source null: from an archive
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from pathlib import Path
from secrets import token_hex
from typing import Literal, TypeAlias, get_args

from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.sort.names import numbered

How = Literal["move", "copy", "link"]
FORMAT = 1
NAME = "sorted.jsonl"
_PART = re.compile(r"\.shoal-[0-9a-f]{16}\.part")


@dataclass(frozen=True)
class Step:
    """One file: where it is, its place under the folder, and the digest of what is copied there."""

    source: str | None
    target: str
    digest: str = ""


Holder: TypeAlias = tuple[str, int, int]
"""A file that images lie inside: its path, its size in bytes, and when it was last changed, in nanoseconds."""


def holder(path: Path) -> Holder:
    """The state of such a file.

    Raises:
        OSError: it is gone.
    """
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Manifest:
    """All steps of a sorting. ``part`` is the name under which a copy is written before it gets its own."""

    path: Path
    how: How
    part: str
    folders: Sequence[str]
    steps: Sequence[Step]
    holders: Sequence[Holder] = ()
    written_in: str = ""
    """Where it was written; "": it does not say."""

    @property
    def into(self) -> Path:
        """The folder that was sorted into: where the manifest lies."""
        return self.path.parent

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest; a last line that is cut off belongs to a step that was never begun.

        Raises:
            UserError: there is none, or it leads out of its folder.
        """
        try:
            header, *lines = path.read_text("utf-8").split("\n")
            found = json.loads(header)
            if found["format"] != FORMAT or found["how"] not in get_args(How):
                raise ValueError(f"format {found['format']}")
            steps = [Step(**json.loads(line)) for line in lines[:-1]]
            sources = [step.source for step in steps if step.source is not None]
            targets = [step.target for step in steps]
            part, folders = found["part"], list(found["folders"])
            holders = [(path, int(size), int(time)) for path, size, time in found.get("holders", ())]
            sources += [path for path, _, _ in holders]
            if not all(isinstance(name, str) and "\0" not in name for name in (part, *folders, *sources, *targets)):
                raise ValueError("a name that is none")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not the manifest of a sort"
            raise UserError(f"cannot read {path}: {reason}.") from error
        ours = _PART.fullmatch(part) and all(name == "" or _is_within(name, 1) for name in folders)
        if not ours or not all(_is_within(target, 2) for target in targets) or not all(map(os.path.isabs, sources)):
            raise UserError(f"{path} names files outside of its folder: it was not written by shoal.")
        return cls(path.absolute(), found["how"], part, folders, steps, holders, str(found.get("into", "")))

    def keep(self, steps: Sequence[Step]) -> None:
        """Leave those steps alone to be undone.

        Raises:
            UserError: it cannot be written.
        """
        lines = [_header(self.how, self.part, self.folders, self.holders, self.written_in), *map(asdict, steps)]
        atomic_write(self.path, _as_lines(lines).encode("ascii"))


def _header(how: How, part: str, folders: Sequence[str], holders: Sequence[Holder], into: str) -> dict[str, object]:
    return {
        "format": FORMAT,
        "how": how,
        "part": part,
        "folders": list(folders),
        "holders": list(holders),
        "into": into,
    }


def _as_lines(lines: Iterable[Mapping[str, object]]) -> str:
    """In ASCII: names that are not UTF-8 have surrogates, which JSON can spell and UTF-8 cannot."""
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def _is_within(name: str, depth: int) -> bool:
    """Whether a name is so deep in the folder: a link to elsewhere may be on a deeper or a winding way."""
    parts = name.split("/")
    return len(parts) == depth and not {"", ".", ".."} & set(parts)


class Writer:
    """Writes a manifest; what it was told is on the disk when it returns."""

    def __init__(self, into: Path, how: How, folders: Sequence[str], holders: Sequence[Holder] = ()) -> None:
        number, path = 1, into / NAME
        to_come = {name.casefold() for name in folders}  # a cluster may have the name of a manifest
        while True:
            try:
                if path.name in to_come:
                    raise FileExistsError
                self._file: TextIOWrapper = path.open("x", encoding="utf-8")
                break
            except FileExistsError:
                number += 1
                path = into / numbered(NAME, number)
        self.path = path
        self.part = into / f".shoal-{token_hex(8)}.part"
        self._write([_header(how, self.part.name, folders, holders, str(into))])
        with contextlib.suppress(OSError):  # where folders cannot be opened, their entries need no flushing
            handle = os.open(into, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def intend(self, steps: Sequence[Step]) -> None:
        """Note what is about to be done."""
        self._write([asdict(step) for step in steps])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, lines: Iterable[Mapping[str, object]]) -> None:
        self._file.write(_as_lines(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
