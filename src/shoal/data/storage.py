"""Files in storages that fsspec reaches, such as ``s3://bucket/photos``: listed, and read whole or in parts.

A request that fails for the moment (503, 429, a connection that breaks off) is made again, after pauses that double.
"""

from __future__ import annotations

import asyncio
import errno
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import cache, partial
from hashlib import blake2b
from itertools import count
from typing import Any, TypeVar

from shoal.data.connecting import PATIENT, S3, SILENCE, connect
from shoal.data.failures import Failure, failure_of
from shoal.data.file_stats import FileStat
from shoal.data.objects import Objects
from shoal.data.reach import UNREACHED
from shoal.data.urls import private, redacted, scheme_of_url
from shoal.errors import UserError

Answer = TypeVar("Answer")

_THREADS = 4  # for file systems whose requests wait, each with a connection of its own

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each further request
_TRIES_AWAY, _TRIES_UNKNOWN = 3, 2  # where nobody answers at all, and where nobody ever has
_SLOWEST = 2**16  # bytes a second, below which a request is given up
_WHERE = "environment variables, or files in ~/.config/fsspec"


class Storage:
    """A file system of fsspec, with the address that it was asked for, ``url``, and the path of that, ``path``.

    Raises:
        UserError: its package is missing, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme = scheme_of_url(url)
        self.is_web = self.scheme in ("http", "https")
        pauses = () if self.scheme in PATIENT else _PAUSES
        self._patience = _Patience(pauses)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")
        self._own = threading.local()
        self._fs, self.path = self.asked(partial(_connected, private(url), self.scheme))
        self._patience = _Patience(pauses)  # which knows of no answer yet
        self._objects = Objects(self._fs) if self.scheme in S3 else None

    def asked(self, request: Callable[[], Answer], url: str = "") -> Answer:
        """The answer to a request without which there are no images; ``url`` is what was asked for.

        Raises:
            UserError: it failed.
        """
        failures: list[Failure] = []
        found = self._tried(request, failures)
        if found is None:
            raise told(url or self.url, failures[-1]) from unread(failures[-1])
        return found

    def begin(self, path: str, start: int | None = None, end: int | None = None, n_bytes: int = 0) -> Future[bytes]:
        """Ask for the bytes of a file, or for those from ``start`` to ``end``, about ``n_bytes`` of them.

        The future raises an OSError whose text is the reason if the file is missing or cannot be reached.
        """
        if getattr(self._fs, "async_impl", False):
            return asyncio.run_coroutine_threadsafe(self._answer(path, start, end, n_bytes), self._fs.loop)
        return self._threads.submit(self._answered, path, start, end)

    def read(self, path: str, start: int | None = None, end: int | None = None, n_bytes: int = 0) -> bytes:
        """What ``begin`` asks for.

        Raises:
            OSError: it is missing, or cannot be reached; the text is the reason.
        """
        return self.begin(path, start, end, n_bytes).result()

    def info(self, path: str) -> Mapping[str, Any]:
        """What the storage says of a file.

        Raises:
            OSError: as ``read``.
        """
        failures: list[Failure] = []
        found: Mapping[str, Any] | None = self._tried(lambda: self._fs.info(path), failures)
        if found is None:
            raise unread(failures[-1])
        return found

    def described(self) -> Mapping[str, Any]:
        """What the storage says of its address.

        Raises:
            UserError: there is nothing, or it cannot be reached.
        """
        self._fs.invalidate_cache()
        found: Mapping[str, Any] = self.asked(lambda: self._fs.info(self.path))
        return found

    def has(self) -> bool:
        """Whether there is something at its address.

        Raises:
            UserError: it cannot be told.
        """
        failures: list[Failure] = []
        if self._tried(lambda: self._fs.info(self.path), failures) is not None:
            return True
        if failures[-1].why not in ("missing", "other"):
            raise told(self.url, failures[-1])
        return False

    def page(self, url: str) -> tuple[str, str]:
        """The text of a web page, and its address after redirections.

        Raises:
            UserError: it cannot be read, or is none.
        """
        info = self.asked(lambda: self._fs.info(url), url)
        if info.get("mimetype", "text/html") not in ("text/html", "application/xhtml+xml"):
            raise UserError(
                f"{redacted(url)} is not a web page but {info['mimetype']}: give the address of a page with links to "
                "images, or of a file whose name ends in .zip, .tar, .parquet or .csv."
            )
        text: bytes = self.asked(lambda: self._fs.cat_file(url), url)
        return str(info.get("url", url)), text.decode("utf-8", "replace")

    def path_of(self, url: str) -> str:
        """The path of an address of this storage."""
        return str(self._fs._strip_protocol(url))

    def found(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each path below its address, and what the storage says of it, all in a few requests.

        Raises:
            UserError: it cannot be listed.
        """
        self._fs.invalidate_cache()
        if self.scheme in S3 and not self._fs.version_aware:
            yield from self._found_in_pages()
            return
        found = dict(self.asked(lambda: self._fs.find(self.path, detail=True)))
        while found:  # what is said of a file takes a kilobyte
            yield found.popitem()

    def _found_in_pages(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """In S3 a page of a thousand is asked for again, and not all before it, where it fails."""
        bucket, prefix, _ = self._fs.split_path(self.path)
        where = {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
        while True:
            page = self.asked(partial(self._fs.call_s3, "list_objects_v2", **where))
            for each in page.get("Contents", ()):
                yield f"{bucket}/{each['Key']}", {**each, "size": each["Size"]}
            if not page.get("IsTruncated") or not page.get("NextContinuationToken"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    async def _answer(self, path: str, start: int | None, end: int | None, n_bytes: int) -> bytes:
        """The bytes of a file in a file system whose requests are coroutines."""
        limit = 2 * SILENCE + n_bytes / _SLOWEST
        for tried in count(1):
            await asyncio.sleep(self._patience.wait())
            try:
                data = self._checked(await asyncio.wait_for(self._bytes(path, start, end), limit), start, end)
                self._patience.answered()
                return data
            except InWholeError:
                raise
            except Exception as error:  # each file system has its own
                failure = failure_of(error)
            pause = self._patience.pause(failure, tried)
            if pause is None:
                raise unread(failure)  # apart from its cause, whose text may hold secrets
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _bytes(self, path: str, start: int | None, end: int | None) -> bytes:
        if self._objects is not None and (data := await self._objects.read(path, start, end)) is not None:
            return data
        # s3fs would first ask how large a file is, to read a large one in parts.
        more = {"max_concurrency": 1} if self.scheme in S3 else {}
        found: bytes = await self._fs._cat_file(path, start=start, end=end, **more)
        return found

    def _answered(self, path: str, start: int | None, end: int | None) -> bytes:
        """The bytes of a file in a file system whose requests wait.

        Paramiko's connections, and perhaps others, are not safe for two threads, so each has one of its own. It is made
        anew after a failure, which may have been its end.
        """

        def request() -> bytes:
            fs = getattr(self._own, "fs", None) or connect(private(self.url), self.scheme, fresh=True)[0]
            self._own.fs = None
            data = self._checked(fs.cat_file(path, start=start, end=end), start, end)
            self._own.fs = fs
            return data

        failures: list[Failure] = []
        data = self._tried(request, failures)
        if data is None:
            raise unread(failures[-1])
        return data

    def _checked(self, data: bytes, start: int | None, end: int | None) -> bytes:
        if start is None or end is None or len(data) == end - start:
            return data
        if len(data) > end - start:
            raise InWholeError(
                errno.EINVAL,
                f"{self.scheme}:// gives it as a whole only: download it to read it",
                data if not start else b"",
            )
        raise EOFError("it ended early")

    def _tried(self, request: Callable[[], Answer], failures: list[Failure]) -> Answer | None:
        """Make a request, again if it fails for the moment; None where it failed in the end."""
        for tried in count(1):
            time.sleep(self._patience.wait())
            try:
                answer = request()
                self._patience.answered()
                return answer
            except (UserError, InWholeError):
                raise
            except Exception as error:
                failures.append(failure_of(error))
            pause = self._patience.pause(failures[-1], tried)
            if pause is None:
                return None
            time.sleep(pause)
        raise AssertionError("unreachable")


class InWholeError(OSError):
    """A server gives a file as a whole where a part of it was asked for."""

    def __init__(self, code: int, reason: str, whole: bytes = b"") -> None:
        super().__init__(code, reason)
        self.whole = whole


class _Patience:
    """When to ask again. All requests wait while the storage asks to be left alone."""

    def __init__(self, pauses: Sequence[float]) -> None:
        self._pauses = pauses
        self._lock = threading.Lock()
        self._quiet_until = 0.0
        self._tries_away = _TRIES_UNKNOWN

    def answered(self) -> None:
        """Note that the storage is there."""
        self._tries_away = _TRIES_AWAY

    def wait(self) -> float:
        """Seconds before a request."""
        return max(0.0, self._quiet_until - time.monotonic()) * random.uniform(0.8, 1.2)

    def pause(self, failure: Failure, tried: int) -> float | None:
        """Seconds before a request that failed this many times is made again; None: it is not."""
        if not failure.may_pass or tried > len(self._pauses) or (failure.why == "away" and tried >= self._tries_away):
            return None
        pause = self._pauses[tried - 1] * random.uniform(0.8, 1.2)
        if failure.reason[:3] in ("429", "503"):
            with self._lock:
                self._quiet_until = max(self._quiet_until, time.monotonic() + pause)
        return pause


def told(url: str, failure: Failure) -> UserError:
    """Say why there are no images at an address, and what to do."""
    url = redacted(url)
    if failure.why == "missing":
        return UserError(f"{failure.reason} at {url}: check the address.")
    if failure.why in ("denied", "lapsed"):
        key = " If its address had a key after a question mark, give it with it again." if "http" in url[:5] else ""
        return UserError(
            f"access to {url} was denied ({failure.reason}): check its name and the credentials, which are those of "
            f"fsspec: {_WHERE}.{key}"
        )
    if failure.may_pass:
        return UserError(f"{url} cannot be reached ({failure.reason}): check the network, then run the command again.")
    return UserError(f"cannot read {url}: {failure.reason}.")


def unread(failure: Failure) -> OSError:
    """The error of a file that could not be read; ``reach.out_of_reach`` knows those that may be read later."""
    if failure.why == "missing":
        return FileNotFoundError(errno.ENOENT, "no such file or directory")
    if failure.may_pass or failure.why == "lapsed":
        return OSError(errno.ECONNRESET, f"{UNREACHED}{failure.reason}")
    if failure.why == "denied":
        return PermissionError(errno.EACCES, f"permission denied by the storage: {failure.reason}")
    return OSError(errno.EINVAL, failure.reason)


def is_known(scheme: str) -> bool:
    """Whether fsspec has a file system for a scheme, whose package may be missing."""
    import fsspec

    return scheme in fsspec.available_protocols()


@cache
def _connected(url: str, scheme: str) -> tuple[Any, str]:
    return connect(url, scheme)


_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "blob_id", "generation", "Last-Modified", "updated")


def stat_from(info: Mapping[str, Any]) -> FileStat:
    """What a storage says of a file in place of ``stat_file``: size, time and a hash of its tag; −1: unsaid."""
    size = info.get("size")
    tags = "\0".join(str(info[name]) for name in _TAGS if info.get(name))
    tag = int.from_bytes(blake2b(tags.encode(), digest_size=8).digest()) >> 1 if tags else -1
    return -1 if size is None else int(size), _nanoseconds(info), tag


def _nanoseconds(info: Mapping[str, Any]) -> int:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e6) * 1000
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value * 1e6) * 1000
    return -1


def entries_of(storage: Storage) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name below the address of a storage, path and what is said of each file there; not of empty folders' marks."""
    base = storage.path.rstrip("/")
    for path, info in storage.found():
        name = path[len(base) + 1 :] if path.startswith(f"{base}/") else ""
        if name and not name.endswith("/") and info.get("type") != "directory":
            yield name, path, info
