"""Images in storages, asked for before they are needed: many requests at once, and a limit on the bytes they bring."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

from shoal.data.connecting import CONNECTIONS
from shoal.data.listing import Blob, Frame, Member, Remote

_BYTES = 2**26
"""Bytes asked for or waiting to be decoded, of all images: memory does not grow with their number or sizes. One is
always asked for, however large."""
_UNKNOWN = 2**20  # bytes, where a storage does not say how many


class Prefetched(Iterator[Blob]):
    """Iterates over images, of which those in storages have been asked for in advance.

    Closed, it withdraws what has not been answered: those who wait for it get a CancelledError.
    """

    def __init__(self, blobs: Iterator[Blob]) -> None:
        self._requests = _Requests()
        self._ahead = self._asked(blobs)

    def __next__(self) -> Blob:
        return next(self._ahead)

    def close(self) -> None:
        """Withdraw all requests."""
        self._requests.close()

    def _asked(self, blobs: Iterator[Blob]) -> Iterator[Blob]:
        ahead = deque[Blob]()
        for blob in blobs:
            if isinstance(blob, Remote):
                blob = Member(partial(self._requests.read, blob, self._requests.add(blob)), blob.stat)
            ahead.append(blob)
            # Nobody waits for a folder on this machine, and each frame of a video holds a picture.
            most = CONNECTIONS if self._requests.used and not isinstance(blob, Frame) else 0
            while len(ahead) > most:
                yield ahead.popleft()
        yield from ahead


class _Waiting:
    """A request that may begin once those before it leave room."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.n_bytes = remote.n_bytes if remote.n_bytes >= 0 else _UNKNOWN
        self.begun = threading.Event()
        self.future: Future[bytes] | None = None


class _Requests:
    """Requests in the order in which their answers are needed.

    The first that waits begins when those before it have ended or been read, which does not depend on it: so nobody
    waits for ever, in whatever threads they are read, as long as that is begun in order.
    """

    def __init__(self) -> None:
        self.used = False
        """Whether there has been one."""
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._open = 0
        self._n_bytes = 0
        self._running: set[Future[bytes]] = set()
        self._closed = False

    def add(self, remote: Remote) -> _Waiting:
        """Queue a request."""
        self.used = True
        waiting = _Waiting(remote)
        with self._lock:
            self._waiting.append(waiting)
        self._begin()
        return waiting

    def read(self, remote: Remote, waiting: _Waiting) -> bytes:
        """Wait for the answer, and make the image file of it."""
        waiting.begun.wait()
        assert waiting.future is not None
        try:
            return remote.unpack(waiting.future.result())
        finally:
            with self._lock:
                self._n_bytes -= waiting.n_bytes
            self._begin()

    def close(self) -> None:
        """Withdraw all requests."""
        with self._lock:
            self._closed = True
            running, waiting, self._waiting = [*self._running], [*self._waiting], deque()
        for each in waiting:
            each.future = Future()
            each.begun.set()
            running.append(each.future)
        for future in running:
            future.cancel()

    def _begin(self) -> None:
        """Make as many requests as there is room for."""
        while True:
            with self._lock:
                first = self._waiting[0] if self._waiting else None
                room = first is not None and (self._n_bytes == 0 or self._n_bytes + first.n_bytes <= _BYTES)
                if first is None or not room or self._open >= CONNECTIONS or self._closed:
                    return
                self._waiting.popleft()
                self._open += 1
                self._n_bytes += first.n_bytes
            future = first.future = first.remote.begin()
            with self._lock:
                self._running.add(future)
            first.begun.set()
            future.add_done_callback(self._ended)

    def _ended(self, future: Future[bytes]) -> None:
        with self._lock:
            self._open -= 1
            self._running.discard(future)
        self._begin()
