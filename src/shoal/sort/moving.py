"""Writing or moving one file without overwriting another."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from hashlib import blake2b
from pathlib import Path

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
