"""Writing files that are either whole or not there, where nothing is yet."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from shoal.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free_folder(path: Path) -> None:
    """Raise a UserError when there is something in the folder, or something else in its place."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty folder: give another --out.")


def lock(file: IO[bytes]) -> bool:
    """Take a file for this process alone, until it is closed or the process ends; False where another has it.

    Where the system cannot do that, nobody is kept out.
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
    """Read a ``~`` at the beginning as a home folder; a name that only begins so, as ``~$photo.jpg``, stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - that of a Path fails where nobody is called so


def real(path: str | Path) -> Path:
    """Follow all links of a path as far as they lead, and a circle of them nowhere."""
    return Path(os.path.realpath(expand_home(path)))


def atomic_write(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``; at every moment the path holds the old content or the new, whole.

    Raises:
        UserError: the disk is full, or the folder cannot be written. The old content is still there.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which becomes ``path`` once all of it is on the disk, and vanishes on an error.

    Raises:
        UserError: the disk is full, or the folder cannot be written. The old content is still there.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        advice = " What it held before is intact: make room, then go on." if error.errno in FULL else ""
        raise UserError(f"cannot write {path}: {error.strerror}.{advice}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # it is gone, once it has become the file itself
                Path(temporary).unlink()
