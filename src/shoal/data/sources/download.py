"""The files of a published data set: found or downloaded once, and checked against their published MD5.

They are in ``<cache>/downloads/``, where the user may also place them. An incomplete download is a ``.part`` file, from
which the next attempt resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from shoal.data.cache import cache_folder
from shoal.data.listing import check_regular
from shoal.errors import UserError
from shoal.files import expand_home

_LOG = logging.getLogger("shoal")
_TIMEOUT = 30  # seconds without a byte
_CHUNK = 2**18  # bytes
_RANGE_NOT_SATISFIABLE = 416  # HTTP status for a range that starts after the last byte


@dataclass(frozen=True)
class Published:
    """The official files of a data set: the URL of their folder, and the MD5 of each by name."""

    home: str
    files: Mapping[str, str]


class _UnreachableError(Exception):
    """A download failed; the message is the reason."""


def published_files(name: str, published: Published, root: str, share: Callable[[float], object]) -> list[Path]:
    """Return the files of the data set ``name`` in the folder ``root``, after checking their MD5.

    With an empty ``root`` they are in the cache, and those that are missing are downloaded; ``share`` is called with
    the downloaded fraction.

    Raises:
        UserError: a file is missing in ``root``, cannot be downloaded, read or written, or is not the published one.
    """
    folder = expand_home(root) if root else cache_folder() / "downloads"
    paths = [folder / file for file in published.files]
    missing = [path for path in paths if not path.exists()]
    if missing and root:
        advice = "give the folder that holds it as --data.root, or omit that option to download it"
        raise UserError(f"there is no {missing[0].name} of {name} in {folder}: {advice}.")
    for path in paths:
        if path not in missing:
            _check(path, published.files[path.name])
    if missing:
        _LOG.warning("downloading %s from %s to %s", name, published.home, folder)
    for index, path in enumerate(missing):

        def of_all(part: float, before: int = index) -> None:
            share((before + part) / len(missing))

        try:
            _download(path, published, of_all)
        except _UnreachableError as error:
            where = f"{_listed(missing[index:], published)} in {folder}"
            advice = f"place {where}, or give the folder that holds the files of {name} as --data.root"
            raise UserError(f"cannot download {name} ({error}): {advice}.") from error
    return paths


def _listed(missing: Sequence[Path], published: Published) -> str:
    names = [path.name for path in missing]
    address = published.home + names[0] if len(names) == 1 else published.home
    return f"{', '.join(names)} (from {address})"


def _check(path: Path, md5: str) -> None:
    found = _md5_of(path)
    if found != md5:
        advice = "it is damaged or another version, so remove it or replace it with the published file"
        raise UserError(f"{path} has the MD5 {found}, but the published file has {md5}: {advice}.")


def _md5_of(path: Path) -> str:
    try:
        check_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error


def _download(path: Path, published: Published, share: Callable[[float], object]) -> None:
    """Download a file, resuming an earlier attempt; it gets its final name once it is complete and checked.

    Raises:
        UserError: it cannot be written.
        _UnreachableError: the download fails, or it is not the published file.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _wait_for_others(file)
            file.seek(0, os.SEEK_END)  # another process may have written to it
            if path.exists():  # downloaded by another process meanwhile
                part.unlink(missing_ok=True)
                return
            _receive(published.home + path.name, file, share)
            found, md5 = _md5_of(part), published.files[path.name]
            if found != md5:
                file.truncate(0)
                raise _UnreachableError(f"the downloaded file has the MD5 {found}, but the published one has {md5}")
            part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror or error}.") from error


def _wait_for_others(file: BinaryIO) -> None:
    """Let one process at a time write the file, on systems with locks; elsewhere the MD5 detects two writers."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX)


def _receive(url: str, file: BinaryIO, share: Callable[[float], object]) -> None:
    for at, total, chunk in _chunks(url, file.tell()):
        if at != file.tell():  # the server cannot resume, and starts again
            file.seek(at)
            file.truncate()
        file.write(chunk)
        if total:
            share(min(file.tell() / total, 1.0))
    file.flush()


def _chunks(url: str, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the offset of a chunk, the file's length and the chunk, from byte ``start`` on if the server supports that.

    The length is 0 if the server does not send it.
    """
    headers = {"User-Agent": "shoal"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=_TIMEOUT) as response:  # TLS is verified
            at = start if response.status == 206 else 0
            total = at + int(response.headers.get("Content-Length") or -at)
            while chunk := response.read(_CHUNK):
                yield at, total, chunk
                at += len(chunk)
    except HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE and start:  # it was complete already
            return
        raise _UnreachableError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise _UnreachableError(getattr(reason, "strerror", None) or str(reason)) from error
    if at < total:
        raise _UnreachableError(f"the connection broke off after {at} of {total} bytes")
