"""A file in a storage, with what a ``Path`` has as far as archives and tables need it."""

from __future__ import annotations

import io
import posixpath
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

from shoal.data.content import HEAD
from shoal.data.decode import UnreadableError
from shoal.data.kinds import DENIED, UNSEEN, Kind
from shoal.data.listing import FileStat, Member, Remote
from shoal.data.reach import UNREACHED, out_of_reach
from shoal.data.storage import InWholeError, Storage
from shoal.data.video.clip import Clip
from shoal.errors import UserError

_MAX_BYTES = 2**30  # of an image file, as on a disk
_FIRST, _MOST, _AHEAD = 2**16, 2**22, 4
"""Bytes of the first request of a file that is read as a stream, of the largest, and how many are made in advance."""
_RUN = 2**20  # bytes of entries of an archive that come by one request


class StoredFile:
    """A file in a storage, with what a ``Path`` has as far as archives and tables need it."""

    def __init__(self, storage: Storage, path: str, url: str, stat: FileStat) -> None:
        self.storage = storage
        self.path = path
        self.stat = stat
        self.name = url.rpartition("/")[2]
        self.suffix = posixpath.splitext(self.name)[1]
        self._url = url

    def __str__(self) -> str:
        return self._url

    @property
    def size(self) -> int:
        """Bytes.

        Raises:
            OSError: the storage does not say.
        """
        if self.stat[0] < 0:
            raise InWholeError(0, "its server does not say how large it is: download it to read it")
        return self.stat[0]

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open it for reading in parts; a stream is asked for in advance."""
        assert mode == "rb"
        return io.BufferedReader(_Stream(self), _FIRST)

    def head(self) -> bytes | Kind:
        """Its first ``HEAD`` bytes."""
        if self.stat[0] == 0:
            return b""
        try:
            return self.storage.read(self.path, 0, min(HEAD, self.stat[0]) if self.stat[0] > 0 else HEAD)
        except InWholeError as error:
            return error.whole[:HEAD]
        except OSError as error:
            return UNSEEN if out_of_reach(error) else DENIED

    def whole(self) -> Remote:
        """All of it."""
        return whole_of(self.storage, self.path, self.stat)

    def clip(self) -> Clip:
        """It as a video."""
        return Clip(str(self), lambda: self.stat, self.open, self.stat[0])

    def parts(self, spans: Iterable[Span | Member]) -> Iterator[Remote | Member]:
        """Parts of it, in order; those that lie close together come by one request. Members are as they are."""
        run: list[Span] = []
        for span in spans:
            if run and (isinstance(span, Member) or not _is_next(span, run)):
                yield from self._together(run)
                run = []
            if isinstance(span, Member):
                yield span
            else:
                run.append(span)
        if run:
            yield from self._together(run)

    def _together(self, run: Sequence[Span]) -> Iterator[Remote]:
        first, last = run[0].start, run[-1].end
        request = _Once(partial(self.storage.begin, self.path, first, last, last - first))
        for span in run:
            yield Remote(request, span.end - span.start, unpack=partial(_cut, span, first))


class Span(NamedTuple):
    """Some bytes of a file, and what makes an image file of them."""

    start: int
    end: int
    unpack: Callable[[bytes], bytes] = bytes


def _is_next(span: Span, run: Sequence[Span]) -> bool:
    """Whether a part lies close behind others, and is not too much with them."""
    return 0 <= span.start - run[-1].end <= _FIRST and span.end - run[0].start <= _RUN


def _cut(span: Span, first: int, data: bytes) -> bytes:
    return span.unpack(data[span.start - first : span.end - first])


class _Once:
    """Makes a request when it is first asked to."""

    def __init__(self, request: Callable[[], Future[bytes]]) -> None:
        self._request = request
        self._lock = Lock()
        self._future: Future[bytes] | None = None

    def __call__(self) -> Future[bytes]:
        with self._lock:
            if self._future is None:
                self._future = self._request()
            return self._future


File: TypeAlias = Path | StoredFile


def local_files(files: Sequence[File]) -> list[Path]:
    """Those of some files that are on this machine, for ``Source.files``."""
    return [file for file in files if isinstance(file, Path)]


def version_of(files: Sequence[File]) -> str:
    """Tells files in storages from those of another time, for ``Source.version``; '' where there are none."""
    stored = [f"{file} {file.stat}" for file in files if isinstance(file, StoredFile)]
    return blake2b("\n".join(stored).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest() if stored else ""


def cannot_read(file: File, error: BaseException) -> UserError | None:
    """Why a file in a storage cannot be read, where that is not the fault of the file; None where it is."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, InWholeError):
            return UserError(f"cannot read {file} in place: {each.strerror}.")
        if isinstance(each, OSError) and (each.strerror or "").startswith(UNREACHED):
            reason = str(each.strerror).removeprefix(UNREACHED)
            return UserError(
                f"{file} cannot be reached ({reason}): check the network and the credentials, then run the same "
                "command again to resume."
            )
        each = each.__cause__ or each.__context__
    return None


def whole_of(storage: Storage, path: str, stat: FileStat | None) -> Remote:
    """An image file in a storage."""
    n_bytes = stat[0] if stat is not None else -1
    if n_bytes > _MAX_BYTES:
        return Remote(partial(_refuse, f"{n_bytes} bytes, too many for an image"), 0, stat)
    return Remote(partial(storage.begin, path, None, None, max(n_bytes, 0)), n_bytes, stat)


def _refuse(reason: str) -> Future[bytes]:
    future = Future[bytes]()
    future.set_exception(UnreadableError(reason))
    return future


class _Stream(io.RawIOBase):
    """Reads a file by requests that grow, and are made in advance, as long as it is read from one byte to the next."""

    def __init__(self, file: StoredFile) -> None:
        super().__init__()
        self._file = file
        self._size = file.size
        self._at = 0
        self._windows: deque[tuple[int, int, Future[bytes]]] = deque()
        self._next = _FIRST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(22, "negative seek")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        if self._at >= self._size or not len(into):
            return 0
        start, _, future = self._window(len(into))
        data = memoryview(future.result())[self._at - start :][: len(into)]
        into[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        for _, _, future in self._windows:
            future.cancel()
        self._windows.clear()
        super().close()

    def _window(self, wanted: int) -> tuple[int, int, Future[bytes]]:
        """The request that brings the next byte; those behind it are made if the stream goes on."""
        end = self._windows[-1][1] if self._windows else -1
        while self._windows and not self._windows[0][0] <= self._at < self._windows[0][1]:
            self._windows.popleft()[2].cancel()
        streaming = bool(self._windows) or 0 <= self._at - end <= _RUN  # a tar is listed by leaps to its headers
        if not self._windows:
            self._next = min(2 * self._next, _MOST) if streaming else _FIRST
            self._request(self._at, max(self._next, min(wanted, _MOST)))
        if streaming:
            while len(self._windows) <= _AHEAD and self._windows[-1][1] < self._size and self._next > _FIRST:
                self._next = min(2 * self._next, _MOST)
                self._request(self._windows[-1][1], self._next)
        return self._windows[0]

    def _request(self, start: int, n_bytes: int) -> None:
        end = min(start + n_bytes, self._size)
        self._windows.append((start, end, self._file.storage.begin(self._file.path, start, end, n_bytes)))
