"""Files: atomic writes, locks, and paths with their home folder and links resolved."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from shoal.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NAMED = 50
"""Characters of a file's name that its temporary file has, which must not be too long where the name just fits."""


def check_free_folder(path: Path) -> None:
    """Raise a UserError unless the path is free or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty folder: give another --out.")


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder; ``is_dir`` of a Path fails on what is longer than a name may be, as patterns are."""
    return os.path.isdir(path)  # noqa: PTH112


def try_lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed or the process ends; False if another process holds the lock.

    On systems without locks, always True.
    """
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def expand_home(path: str | Path) -> Path:
    """Expand a leading ``~`` or ``~user``; other names that start with it, such as ``~$photo.jpg``, are unchanged."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for unknown users


def real(path: str | Path) -> Path:
    """Resolve all links of a path; unlike ``Path.resolve``, a loop of links is not an error."""
    return Path(os.path.realpath(expand_home(path)))


def atomic_write(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Replace the content of ``path``; at every moment it has either the old or the new content in full.

    Args:
        path: of the file.
        content: all of it.
        flush: bring it to the disk before it has its name. Without, a power cut may leave an empty file, and thousands
            of small ones are written several times as fast.

    Raises:
        UserError: the disk is full, or the folder cannot be written; the old content is intact.
    """
    with atomic_file(path, flush=flush) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` once it is fully on disk, and is deleted on an error.

    ``flush`` as in ``atomic_write``.

    Raises:
        UserError: the disk is full, or the folder cannot be written; the old content is intact.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_NAMED]}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        advice = " Its old content is intact: free disk space, then try again." if error.errno in DISK_FULL else ""
        reason = error.strerror or str(error)
        if error.filename is not None and not path.is_relative_to(Path(error.filename)) and error.filename != temporary:
            reason = f"{error.filename}: {reason}"  # what goes into the file could not be read
        raise UserError(f"cannot write {path}: {reason}.{advice}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # already renamed
                Path(temporary).unlink()
