"""Finds what would stop a sorting halfway before it starts."""

from __future__ import annotations

import errno
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from secrets import token_hex

import numpy as np

from shoal.errors import UserError
from shoal.files import DISK_FULL
from shoal.sort.manifest import How
from shoal.sort.names import folded

_NO_ROOM = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def located(path: Path) -> Path:
    """The file by its real folder, so that two ways to it are one; the file itself may be a link.

    Raises:
        UserError: it is gone.
    """
    found = Path(_real(str(path.parent.absolute())), path.name)
    if not found.is_file():
        raise UserError(f"there is no file {path} any more: bring it back, or cluster the images again.")
    return found


def check_apart(into: Path, sources: Iterable[Path | None], folders: Iterable[Path]) -> None:
    """Refuse to sort into a folder the images are from, or below: the next clustering would find them twice.

    Raises:
        UserError: ``into`` lies there, or one of the files lies in ``into``.
    """
    for source in folders:
        if source.resolve() == into or source.resolve() in into.parents:
            raise UserError(f"{into} lies inside {source}, where the images are: sort into a folder beside it.")
    for folder in {path.parent for path in sources if path is not None}:
        if into == folder or into in folder.parents:
            raise UserError(f"the images in {folder} lie inside {into}: sort into another folder.")


def check_sources(rows: Callable[[], Iterable[tuple[int, Path | None, str]]], how: How) -> None:
    """Refuse what cannot be moved or linked.

    Raises:
        UserError: an image inside an archive; a link, or a file twice, or a folder that cannot be written.
    """
    seen, folders = array("q"), set[Path]()
    for _, path, target in rows():
        if path is None:
            if how != "copy":
                done = {"move": "moved", "link": "linked to"}[how]
                raise UserError(
                    f"{target} lies inside an archive, a table, a video or a storage and cannot be {done}: use --copy."
                )
            continue
        if how == "move":
            seen.append(hash(path))
            folders.add(path.parent)
            if path.is_symlink():
                raise UserError(f"{path} is a link, which may lead nowhere from another place: use --copy or --link.")
    known, counts = np.unique(np.frombuffer(seen, np.int64), return_counts=True)
    repeated = set(known[counts > 1].tolist())
    twice = next((path for _, path, _ in rows() if hash(path) in repeated), None) if repeated else None
    if twice is not None:
        raise UserError(f"{twice} is listed twice but can only be moved once: use --copy or --link.")
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"the folder {folder} cannot be written, so nothing can be moved out of it: use --copy.")


def check_room(into: Path, n_bytes: int, sources: Iterable[Path | None], how: How) -> None:
    """Refuse a folder that cannot be written, or a disk that is too small.

    Raises:
        UserError: it is.
    """
    existing = _existing(into)
    if not existing.is_dir():
        raise UserError(f"{existing} is not a folder: sort into another one.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"the folder {existing} cannot be written: sort into another one.")
    copied = how == "copy" or (how == "move" and any(on_other_disk(into, (path for path in sources if path))))
    free = shutil.disk_usage(existing).free
    if copied and n_bytes > free:
        room = f"{existing} has {free / 1e6:.3f} MB free"
        raise UserError(f"the files take {n_bytes / 1e6:.3f} MB and {room}: make room, or use --link.")


def holds_any_name(into: Path) -> bool:
    """Whether the file system of a folder holds names that FAT does not: an empty file is made there, and removed.

    Systems call the same file system by many names, and one that is shared over a network by that of the network.
    """
    probe = os.fsencode(_existing(into)) + f"/.shoal-{token_hex(8)}:?.part".encode()
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        return error.errno in _NO_ROOM  # ``check_room`` reports this
    os.unlink(probe)  # noqa: PTH108 - a path of bytes
    return True


def check_free_targets(into: Path, folders: Iterable[str], destinations: Iterable[str]) -> None:
    """Refuse to write over anything, or through a link to somewhere else.

    Raises:
        UserError: there is something in the place of a folder or a file.
    """
    for name in folders:
        folder = into / name
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            raise UserError(
                f"{folder} is in the way and is not a folder: sort into another folder, or rename the cluster."
            )
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"the folder {folder} cannot be written: sort into another one.")
    if not into.exists():
        return
    there = [target for target in destinations if os.path.lexists(into / target)]
    if there:
        exist = f" and {len(there) - 1} more exist" if len(there) > 1 else " exists"
        raise UserError(f"{into / there[0]}{exist} already: nothing is overwritten, sort into another folder.")


def check_free_stems(into: Path, destinations: Iterable[str]) -> None:
    """Refuse to write beside files that have these names with an extension, as an earlier sort may have left them.

    Raises:
        UserError: there is one.
    """
    stems: dict[str, set[str]] = {}
    for target in destinations:
        folder, _, name = target.rpartition("/")
        if folder not in stems:
            found = (into / folder).iterdir() if (into / folder).is_dir() else ()
            stems[folder] = {folded(each.stem) for each in found}
        if folded(name) in stems[folder]:
            raise UserError(
                f"{into / target} exists already with a file extension: nothing is overwritten, sort into another "
                "folder."
            )


def on_other_disk(into: Path, paths: Iterable[Path]) -> Iterator[bool]:
    """Of each file whether it lies on another file system than the folder (will)."""
    device = _existing(into).stat().st_dev
    devices: dict[Path, int] = {}
    for path in paths:
        folder = path.parent
        if folder not in devices:
            devices[folder] = folder.stat().st_dev
        yield devices[folder] != device


def _existing(folder: Path) -> Path:
    return next(part for part in (folder, *folder.parents) if part.exists())
