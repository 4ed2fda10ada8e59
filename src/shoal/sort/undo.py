"""Putting back what a sorting did, also one that was stopped in the middle."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import UserError
from shoal.sort.manifest import How, Manifest, Step
from shoal.sort.moving import digest, move, same_content


@dataclass(frozen=True)
class Undone:
    """How many files were put back or removed, and why others were left where they are, a sentence for each."""

    n_files: int
    left: Sequence[str]


def undo(manifest: Path) -> Undone:
    """Move files back to their places; remove copies and links that are unchanged, then folders that are empty.

    Nothing is overwritten. Once all is back, the manifest is removed too; until then it can be undone again.

    Raises:
        UserError: there is no manifest, it cannot be read, or the disk refuses.
    """
    if manifest.is_dir():
        raise UserError(f"{manifest} is a folder: give the manifest in it, sorted.jsonl.")
    found = Manifest.read(manifest)
    into, done, left = found.into.resolve(), 0, list[str]()
    part = into / found.part
    try:
        part.unlink(missing_ok=True)
        for step in reversed(found.steps):
            reason = _undo(step, found.how, into, part)
            if reason:
                left.append(reason)
            elif reason is None:
                done += 1
    except OSError as error:
        raise UserError(f"cannot put back {error.filename}: {error.strerror}. Mend that, then undo again.") from error
    for folder in sorted(found.folders, reverse=True):
        if folder:
            with contextlib.suppress(OSError):  # it holds something else by now
                (into / folder).rmdir()
    if not left:
        found.path.unlink()
        if "" in found.folders:
            with contextlib.suppress(OSError):
                into.rmdir()
    return Undone(done, left)


def _undo(step: Step, how: How, into: Path, part: Path) -> str | None:
    """Undo one step: a sentence if that is not possible, nothing if it is done, and "" if there was nothing to do."""
    target = into / step.target
    if not os.path.lexists(target):
        gone = how == "move" and step.source is not None and not os.path.lexists(step.source)
        return f"{target} is gone, and so is {step.source}." if gone else ""
    if into not in target.parent.resolve().parents:
        return f"{target.parent} leads out of {into}."
    source = None if step.source is None else Path(step.source)
    if how == "move" and source is not None:
        return _move_back(target, source, part)
    if how == "link":
        ours = target.is_symlink() and str(target.readlink()) == step.source
    else:
        ours = target.is_file() and not target.is_symlink() and digest(target.read_bytes()) == step.digest
    if not ours:
        return f"{target} has changed since."
    target.unlink()
    return None


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
