"""``decisions.jsonl``: a line for each decision, added and never changed, so that a kill loses at most the last one.

| do | other fields | |
|---|---|---|
| rename | cluster, name | an empty name takes it away |
| merge | clusters, into | the images of some clusters join another |
| split | cluster, parts | parts: [{"cluster": new number, "images": […]}]; the others stay |
| new | cluster, images, name | a new cluster of some images |
| move | images, cluster | −1: they belong nowhere |
| confirm | images | they are in the right cluster |
| answer | image, and cluster or none_of | the answer to a question; none_of: clusters that it is not in |
| | perhaps name | the cluster is a new one, which is called so |
| learn | file | a learned clustering was accepted |
| undo | | the last of all these, or the last that were taken together, no longer count |

``shoal update`` adds lines of its own, which cannot be undone: ``renamed`` (images: {old: new}), ``gone`` (images) and
``placed`` (images: {id: cluster}). Images go by their ids as tables hold them.
"""

from __future__ import annotations

import errno
import io
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeAlias

from shoal.errors import UserError
from shoal.files import DISK_FULL

Decision: TypeAlias = Mapping[str, Any]
"""A line as a JSON object; ``do`` says what it is."""

LARGEST = 2**24
"""Numbers of clusters are below it: some tables have a place for each number."""


def _is_cluster(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < LARGEST


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_clusters(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_cluster, value))


def _is_parts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and _is_cluster(part.get("cluster")) and _is_names(part.get("images")) for part in value
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value == Path(value).name != ""


def _is_renames(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_places(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_cluster, value.values()))


def _is_place(value: object) -> bool:
    return _is_cluster(value, -1)


FIELDS: dict[str, dict[str, Callable[[object], bool]]] = {
    "rename": {"cluster": _is_cluster, "name": _is_text},
    "merge": {"clusters": _is_clusters, "into": _is_cluster},
    "split": {"cluster": _is_cluster, "parts": _is_parts},
    "new": {"cluster": _is_cluster, "images": _is_names, "name": _is_text},
    "move": {"images": _is_names, "cluster": _is_place},
    "confirm": {"images": _is_names},
    "answer": {"image": _is_text},
    "learn": {"file": _is_file_name},
    "undo": {},
    "renamed": {"images": _is_renames},
    "gone": {"images": _is_names},
    "placed": {"images": _is_places},
}
"""Fields that a decision must have, and what each of them may hold."""

OF_UPDATE = ("renamed", "gone", "placed")
"""Decisions that ``shoal update`` takes."""


def check(decision: object) -> None:
    """Raise a ValueError for what is not a decision."""
    if not isinstance(decision, dict) or decision.get("do") not in FIELDS:
        raise ValueError("it says nothing that can be done")
    for name, is_right in FIELDS[decision["do"]].items():
        if not is_right(decision.get(name)):
            raise ValueError(f"{decision['do']} lacks its {name}")
    if not _is_text(decision.get("name", "")):
        raise ValueError("its name is none")
    if decision["do"] == "answer" and not (_is_place(decision.get("cluster")) or _is_clusters(decision.get("none_of"))):
        raise ValueError("answer lacks its cluster")


class DecisionLog:
    """The decisions of a result, in the order in which they were taken."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes of the decisions in the file; 0 without one. It grows with every decision."""
        try:
            with self.path.open("rb") as file:
                return _end_of_decisions(file)
        except FileNotFoundError:
            return 0

    def content(self) -> bytes:
        """All of the file; nothing without one.

        Raises:
            UserError: it cannot be read.
        """
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}.") from error

    def read(self) -> tuple[list[Decision], int]:
        """All whole lines, and the bytes that they take.

        Raises:
            UserError: the file cannot be read, or a line is damaged.
        """
        content = self.content()
        whole = content[: _end_of_decisions(io.BytesIO(content))]
        found = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                decision = json.loads(line)
                check(decision)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"line {number} of {self.path} is damaged ({error}): remove that line, and the others stand."
                ) from error
            found.append(decision)
        return found, len(whole)

    def append(self, decisions: Sequence[Decision], key: str = "") -> None:
        """Add lines; they are on the disk when this returns. The caller holds the folder (``ResultFolder.alone``).

        They are undone together, as ``key`` tells them from others; by default it is made up.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        key = key or uuid.uuid4().hex
        at = datetime.now(UTC).isoformat(timespec="seconds")
        for decision in decisions:
            check(dict(decision))
        lines = "".join(json.dumps({"at": at, "key": key, **decision}) + "\n" for decision in decisions).encode()
        try:
            with self.path.open("a+b", buffering=0) as file:
                end = _end_of_decisions(file)
                file.truncate(end)  # half a line that a kill has left
                if end > _end_of_lines(file):
                    lines = b"\n" + lines
                try:
                    if file.write(lines) < len(lines):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            full = " Free disk space, then try again." if error.errno in DISK_FULL else ""
            denied = error.errno in (errno.EACCES, errno.EROFS, errno.EPERM)
            what = f"{self.path.parent} is read-only, so no decision can be kept there" if denied else error.strerror
            raise UserError(f"cannot write {self.path}: {what}.{full}") from error


def _end_of_decisions(file: IO[bytes]) -> int:
    """Where the last decision ends, also if an editor has taken away the end of its line; a kill leaves half of one."""
    end = _end_of_lines(file)
    file.seek(end)
    rest = file.read()
    try:
        check(json.loads(rest))
    except (ValueError, RecursionError):
        return end
    return end + len(rest)


def _end_of_lines(file: IO[bytes]) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65_536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def effective(decisions: Sequence[Decision]) -> list[Decision]:
    """The decisions that count: without those that were undone, of which some that were taken together are one."""
    found: list[Decision] = []
    for decision in decisions:
        if decision["do"] != "undo":
            found.append(decision)
            continue
        last = next((i for i in reversed(range(len(found))) if found[i]["do"] not in OF_UPDATE), None)
        while last is not None and last >= 0 and found[last]["do"] not in OF_UPDATE:
            key = found.pop(last).get("key")
            last -= 1
            if key is None or last < 0 or found[last].get("key") != key:
                break
    return found


def translated(steps: Sequence[Decision]) -> list[Decision]:
    """Decisions that name images as they are called now, without images that have gone or were replaced since."""
    found: list[Decision] = []
    called: dict[str, str] = {}
    for step in reversed(steps):
        if step["do"] == "renamed":
            called |= {old: called.get(new, new) for old, new in step["images"].items()}
        elif step["do"] == "gone":
            called |= dict.fromkeys(step["images"], "")
        else:
            found.append(_with_names(step, called) if called else step)
    found.reverse()
    return [_of_cluster(step) if step.get("image") == "" else step for step in found if not _is_void(step)]


def _is_void(step: Decision) -> bool:
    """Whether a decision is an answer about an image that has gone, and nothing else."""
    return step.get("image") == "" and not (step.get("name") and "cluster" in step)


def _of_cluster(answer: Decision) -> Decision:
    """What stays of an answer whose image has gone: the cluster that it made, which later decisions may be about."""
    return {**{key: value for key, value in answer.items() if key != "image"}, "do": "new", "images": []}


def _with_names(step: Decision, called: Mapping[str, str]) -> Decision:
    def present(names: Sequence[str]) -> list[str]:
        return [name for name in (called.get(each, each) for each in names) if name]

    changed: dict[str, Any] = dict(step)
    if "image" in step:
        changed["image"] = called.get(step["image"], step["image"])
    if "parts" in step:
        changed["parts"] = [{**part, "images": present(part["images"])} for part in step["parts"]]
    if step["do"] == "placed":
        changed["images"] = {called.get(name, name): cluster for name, cluster in step["images"].items()}
    elif "images" in step:
        changed["images"] = present(step["images"])
    return changed
