"""Moving one file without overwriting another, and undoing a whole sorting, even an interrupted one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from shoal.errors import UserError
from shoal.sort.manifest import How, Manifest, Step

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)


def digest(content: bytes) -> str:
    """Hash of a file's content."""
    return blake2b(content, digest_size=16).hexdigest()


def put(content: bytes, target: Path, part: Path, like: Path | None = None, *, checked: bool = False) -> None:
    """Write a file under the name ``part``, with the times of ``like``, and give it its own name once it is whole.

    ``checked`` brings it to the disk and reads it again, for a file that will be removed where it was.

    Raises:
        OSError: there is something at ``target``, the disk is full or does not give back what was written.
    """
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            if checked:
                os.fsync(file.fileno())
        if checked and part.read_bytes() != content:
            raise OSError(errno.EIO, "what was written reads differently")
        if like is not None:
            shutil.copystat(like, part)
        rename(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def move(source: Path, target: Path, part: Path) -> None:
    """Give a file another place; to another file system it is copied and checked before it is removed.

    Raises:
        OSError: there is something at ``target``, or it cannot be moved.
    """
    try:
        rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        put(source.read_bytes(), target, part, source, checked=True)
        source.unlink()


def rename(source: Path, target: Path) -> None:
    """Rename a file, but not over another one, which ``os.rename`` would do.

    Raises:
        OSError: there is something at ``target``, or it lies on another file system.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.rename(target)
    else:
        try:
            source.unlink()
        except OSError:
            target.unlink()
            raise


def same_content(one: Path, other: Path) -> bool:
    """Whether two regular files hold the same."""
    plain = one.is_file() and other.is_file() and not one.is_symlink() and not other.is_symlink()
    return plain and one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


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
        raise UserError(f"cannot put back {error.filename}: {error.strerror}. Fix this, then undo again.") from error
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
    if how == "copy" and source is not None and not os.path.lexists(source):
        return f"{target} stays: {source}, of which it is a copy, is gone."
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
