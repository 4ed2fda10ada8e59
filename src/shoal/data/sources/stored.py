"""Images, archives and tables in storages: ``s3://bucket/photos``, ``https://host/photos.zip`` and their like.

A file there has of a ``Path`` what the other sources need, so that they read it where it is. Nothing is copied to disk.
"""

from __future__ import annotations

import io
import posixpath
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, partial
from hashlib import blake2b
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
from jaxtyping import Int64

from shoal.data.decode import UnreadableError
from shoal.data.kinds import DENIED, HEAD, Kind
from shoal.data.listing import Blob, Files, Listing, Look, Member, Names, Remote, Source, distinct
from shoal.data.looks import NO_LOOK
from shoal.data.reach import UNREACHED
from shoal.data.sources.labels import subfolder_classes
from shoal.data.storage import CONNECTIONS, InWholeError, Storage, entries_of, look_of
from shoal.data.threads import map_in_threads
from shoal.data.urls import is_url, public
from shoal.errors import UserError
from shoal.types import Others

_MAX_BYTES = 2**30  # of an image file, as on a disk
_FIRST, _MOST, _AHEAD = 2**16, 2**22, 4
"""Bytes of the first request of a file that is read as a stream, of the largest, and how many are made in advance."""
_RUN = 2**20  # bytes of entries of an archive that come by one request
_DEEPEST = 32  # web pages of web pages


class StoredFile:
    """A file in a storage, with what a ``Path`` has as far as archives and tables need it."""

    def __init__(self, storage: Storage, path: str, url: str, look: Look) -> None:
        self.storage = storage
        self.path = path
        self.look = look
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
        if self.look[0] < 0:
            raise InWholeError(0, "its server does not say how large it is: download it to read it")
        return self.look[0]

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open it for reading in parts; a stream is asked for in advance."""
        assert mode == "rb"
        return io.BufferedReader(_Stream(self), _FIRST)

    def head(self) -> bytes | Kind:
        """Its first ``HEAD`` bytes."""
        if self.look[0] == 0:
            return b""
        try:
            return self.storage.read(self.path, 0, min(HEAD, self.look[0]) if self.look[0] > 0 else HEAD)
        except OSError:
            return DENIED

    def whole(self) -> Remote:
        """All of it."""
        return _whole(self.storage, self.path, self.look)

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


class StoredFolder:
    """Files under an address, sorted by name; ``/`` leads to one of them."""

    def __init__(self, storage: Storage, names: Names, paths: Names, looks: Int64[np.ndarray, "n 3"]) -> None:
        self.storage = storage
        self.names = names
        self.paths = paths
        self.looks = looks

    @classmethod
    def listed(cls, storage: Storage) -> StoredFolder:
        """List all that is under the address of a storage.

        Raises:
            UserError: it cannot be listed, or there is nothing.
        """
        if not storage.path.strip("/") and not storage.is_web and storage.scheme != "memory":
            raise UserError(f"{storage.url} names no bucket or folder: add one, as in {storage.scheme}://name/photos.")
        entries = _web_entries(storage) if storage.is_web else entries_of(storage)
        found = sorted((name, path, look_of(info)) for name, path, info in entries)
        if not found:
            raise UserError(f"there is nothing at {storage.url}: check the address.")
        looks = np.array([look for _, _, look in found], np.int64)
        names, paths = Names(name for name, _, _ in found), Names(path for _, path, _ in found)
        return cls(storage, distinct(names), paths, looks)

    def __str__(self) -> str:
        return self.storage.url

    def absolute(self) -> StoredFolder:
        """Itself: an address holds from anywhere."""
        return self

    def __truediv__(self, name: str) -> StoredFile:
        row = bisect_left(self.names, name)
        return StoredFile(
            self.storage, self.paths[row], f"{self.storage.url.rstrip('/')}/{name}", _as_look(self.looks[row])
        )


Folder: TypeAlias = Path | StoredFolder
File: TypeAlias = Path | StoredFile


def local_files(files: Sequence[File]) -> list[Path]:
    """Those of some files that are on this machine, for ``Source.files``."""
    return [file for file in files if isinstance(file, Path)]


def version_of(files: Sequence[File]) -> str:
    """Tells files in storages from those of another time, for ``Source.version``; '' where there are none."""
    stored = [f"{file} {file.look}" for file in files if isinstance(file, StoredFile)]
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


def found_at(url: str) -> StoredFolder | StoredFile:
    """What there is at an address: a file, or a folder with all files under it.

    Raises:
        UserError: there is nothing, or it cannot be reached.
    """
    storage = Storage(url)
    if storage.is_web and posixpath.splitext(urlsplit(url).path)[1].lower() in ("", ".html", ".htm"):
        return StoredFolder.listed(storage)
    if not url.endswith("/") and storage.path.strip("/"):
        info = storage.described()
        if info.get("type") != "directory":
            return StoredFile(storage, storage.path, url, look_of(info))
    return StoredFolder.listed(storage)


def exists_at(url: str) -> bool:
    """Whether there is a file or a folder of exactly this address.

    Raises:
        UserError: it cannot be told.
    """
    return Storage(url).has()


def folder_of(file: StoredFile) -> StoredFolder:
    """The folder of a file, in which nothing else is known."""
    return _OneFile(file)


class _OneFile(StoredFolder):
    def __init__(self, file: StoredFile) -> None:
        super().__init__(file.storage, Names([file.name]), Names([file.path]), np.array([file.look], np.int64))
        self._file = file

    def __str__(self) -> str:
        return str(self._file).rpartition("/")[0]

    def __truediv__(self, name: str) -> StoredFile:
        return self._file


def stored_source(folder: StoredFolder, names: Names, others: Others) -> Source:
    """Read image files under an address, some of those that were listed there, in the same order."""
    rows = np.fromiter(_rows(folder.names, names), np.int64, len(names))
    looks, paths = folder.looks[rows], folder.paths.take(rows)
    known = bool((looks != NO_LOOK).any(1).all())

    def blobs(start: int = 0) -> Iterator[Blob]:
        for path, look in zip(paths[start:], looks[start:], strict=True):
            yield _whole(folder.storage, path, _as_look(look))

    def listing() -> Listing:
        targets, classes = subfolder_classes(names)
        return Listing(names, targets, classes, blobs, seek=blobs, others=others, looks=looks if known else None)

    digest = blake2b(looks.tobytes(), digest_size=16).hexdigest()
    origin = ("stored", str(folder), digest)
    return Source(origin, (), listing, others=others, stable=known, has_looks=known, version=digest)


def _rows(everything: Names, some: Names) -> Iterator[int]:
    """Where some names are among all, both in the same order."""
    wanted = iter(some)
    name = next(wanted, None)
    for row, each in enumerate(everything):
        if each == name:
            yield row
            name = next(wanted, None)


def _as_look(row: Int64[np.ndarray, "3"]) -> Look:
    size, time, tag = row.tolist()
    return size, time, tag


def _whole(storage: Storage, path: str, look: Look | None) -> Remote:
    """An image file in a storage."""
    n_bytes = look[0] if look is not None else -1
    if n_bytes > _MAX_BYTES:
        return Remote(partial(_refuse, f"{n_bytes} bytes, too many for an image"), 0, look)
    return Remote(partial(storage.begin, path, None, None, max(n_bytes, 0)), n_bytes, look)


def _refuse(reason: str) -> Future[bytes]:
    future = Future[bytes]()
    future.set_exception(UnreadableError(reason))
    return future


# Addresses in lists and tables


def has_urls(paths: Iterable[str]) -> bool:
    """Whether any of some paths is an address."""
    return any("://" in path and is_url(path) for path in paths)


def blob_at(place: str) -> Blob:
    """The image at an address or a path."""
    if not is_url(place):
        return Path(place)
    parts = urlsplit(place)
    storage = _storage_of(f"{parts.scheme}://{parts.netloc}/")
    return _whole(storage, storage.path_of(place), None)


@cache
def _storage_of(root: str) -> Storage:
    return Storage(public(root))


def located_in(folder: Folder, name: str) -> str:
    """The place that a path in a table means: an address, or else relative to the folder of the table."""
    if "://" in name and is_url(name):
        return name
    if isinstance(folder, Path):
        return str(folder / name)
    base, _, path = f"{folder}/{name}".partition("://")
    return f"{base}://{posixpath.normpath(path)}"


def blobs_at(places: Files, start: int = 0) -> Iterator[Blob]:
    """The images at addresses and paths, from one of them on."""
    return map(blob_at, places[start:].texts())


def listed_source(names: Names, places: Files) -> Source:
    """Images at addresses and paths as they are listed. What is at an address is not looked at until it is read."""
    blobs = partial(blobs_at, places)
    ids = distinct(Names(map(public, names)))
    listing = Listing(ids, np.full(len(ids), -1), (), blobs, seek=blobs)
    local = [Path(place) for place in places.texts() if not is_url(place)]
    shown = Names(map(public, places.texts()))
    return Source(Names(chain(["list"], ids)), local, lambda: listing, stable=False, places=shown)


# Web pages


def _web_entries(storage: Storage) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, address and what the server says of each file that a page, and the pages below it, have links to."""
    base, links = _files_below(storage)

    def asked(link: str) -> tuple[str, Mapping[str, Any]]:
        try:
            return link, storage.info(link)
        except OSError:  # it is told when it is read
            return link, {}

    for link, info in map_in_threads(asked, links, threads=CONNECTIONS, ahead=2 * CONNECTIONS):
        yield unquote(urlsplit(link).path[len(base) :]), link, info


def _files_below(storage: Storage) -> tuple[str, list[str]]:
    """The path that all files share, and their addresses."""
    first = storage.page(storage.path)
    root = urlsplit(first[0])
    base = root.path.rpartition("/")[0] + "/"
    pages, files, seen = deque([(first, 0)]), dict[str, str](), {root.path}
    below = deque[tuple[str, int]]()
    while pages or below:
        if pages:
            (page, text), depth = pages.popleft()
        else:
            address, depth = below.popleft()
            page, text = storage.page(address)
        for link in _links(text, page):
            parts = urlsplit(link)
            inside = parts.netloc == root.netloc and parts.path.startswith(base) and parts.path != base
            if not inside or parts.path in seen or depth > _DEEPEST:
                continue
            seen.add(parts.path)
            if parts.path.endswith("/"):
                below.append((link, depth + 1))
            else:
                files[parts.path] = link
    return base, [*files.values()]


def _links(text: str, page: str) -> Iterator[str]:
    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if name in ("href", "src") and value and tag in ("a", "img"))

    found: list[str] = []
    Links().feed(text)
    for value in found:
        try:
            yield urljoin(page, value).partition("#")[0]
        except ValueError:  # an address with half a bracket
            continue


# Files as streams


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
        streaming = bool(self._windows) or self._at == end
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
