"""Undoing a whole sorting, even an interrupted one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import UserError
from shoal.sort.manifest import Holder, How, Manifest, Step, holder
from shoal.sort.moving import digest, move, same_content


@dataclass(frozen=True)
class Undone:
    """How many files were put back or removed, and why others were left where they are, a sentence for each."""

    n_files: int
    left: Sequence[str]


def undo(manifest: Path) -> Undone:
    """Move files back to their places; remove copies and links that are unchanged, then folders that are empty.

    Nothing is overwritten, and a copy whose original is gone or has changed stays. Once all is back, the manifest is
    removed too; until then it keeps what is left, which can be undone again.

    Raises:
        UserError: there is no manifest, it cannot be read, nothing lies beside it, or the disk refuses.
    """
    found = _read(manifest)
    into = found.into.resolve()
    part, done, left = into / found.part, 0, dict[Step, str]()
    try:
        part.unlink(missing_ok=True)
        lost = _lost_archive(found.holders)
        for step in reversed(found.steps):
            reason = _undo(step, found.how, into, part, lost)
            if reason:
                left[step] = reason
            elif reason is None:
                done += 1
    except OSError as error:
        raise UserError(f"cannot put back {error.filename}: {error.strerror}. Fix this, then undo again.") from error
    if left:
        found.keep([step for step in found.steps if step in left])
    else:  # before the folders, without which it would be told that these are gone
        found.path.unlink()
    for folder in sorted(found.folders, reverse=True):
        if folder:
            with contextlib.suppress(OSError):  # it holds something else by now
                (into / folder).rmdir()
    if not left and "" in found.folders:
        with contextlib.suppress(OSError):
            into.rmdir()
    return Undone(done, [*left.values()])


def _read(path: Path) -> Manifest:
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the manifest in it, sorted.jsonl.")
    found = Manifest.read(path)
    moved = found.written_in not in ("", str(found.into.resolve()))
    if moved and found.steps and not any((found.into / step.target).parent.exists() for step in found.steps):
        raise UserError(
            f"nothing that was sorted lies beside {path}: put it back into the folder that it was written in, then "
            "undo again."
        )
    return found


def _undo(step: Step, how: How, into: Path, part: Path, lost: str) -> str | None:
    """Undo one step: a sentence if that is not possible, nothing if it is done, and "" if there was nothing to do."""
    target = into / step.target
    if not os.path.lexists(target):
        return _of_missing(target, step, how)
    if into not in target.parent.resolve().parents:
        return f"{target.parent} leads out of {into}."
    source = None if step.source is None else Path(step.source)
    if how == "move" and source is not None:
        return _move_back(target, source, part)
    if how == "link":
        ours, reason = target.is_symlink() and str(target.readlink()) == step.source, ""
    else:
        ours = not target.is_symlink() and _holds(target, step.digest)
        reason = lost if source is None else _lost_original(target, source, step.digest)
    if not ours:
        return f"{target} has changed since."
    if reason:
        return reason
    target.unlink()
    return None


def _of_missing(target: Path, step: Step, how: How) -> str:
    """What to say of a file that is not where it was put, or never was put there."""
    if how == "move":
        gone = step.source is not None and not os.path.lexists(step.source)
        return f"{target} is gone, and so is {step.source}." if gone else ""
    return "" if target.parent.exists() else f"{target.parent} is gone: put it back, or an empty folder in its place."


def _holds(file: Path, content: str) -> bool:
    return file.is_file() and digest(file.read_bytes()) == content


def _lost_original(target: Path, source: Path, content: str) -> str:
    """Why a copy may be the last one, if the file that it was made of is gone or is another."""
    if not os.path.lexists(source):
        return f"{target} stays: {source}, of which it is a copy, is gone."
    try:
        same = _holds(source, content)
    except OSError:
        same = False
    return "" if same else f"{target} stays: {source}, of which it is a copy, has changed."


def _lost_archive(holders: Sequence[Holder]) -> str:
    """Why copies of images inside archives may be the last ones, if an archive is gone or is another."""
    for path, size, time in holders:
        try:
            if holder(Path(path)) != (path, size, time):
                return f"what came out of an archive stays: {path}, which copies may be from, has changed."
        except OSError:
            return f"what came out of an archive stays: {path}, which copies may be from, is gone."
    return ""


def _move_back(target: Path, source: Path, part: Path) -> str | None:
    if not os.path.lexists(source):
        source.parent.mkdir(parents=True, exist_ok=True)
        # Its own file system may be another one, where the copy must be written.
        beside = source.parent / part.name
        beside.unlink(missing_ok=True)
        move(target, source, beside)
    elif source.samefile(target) or same_content(source, target):  # it was stopped between the two
        target.unlink()
    else:
        return f"there is another file {source}: {target} stays."
    return None
