"""What C libraries print: decoders complain to file descriptor 2 without saying of which file.

The command moves its own words to another descriptor, after which descriptor 2 can be muffled while decoders run. In
Python, where the descriptor belongs to somebody else, nothing is touched.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from threading import Lock

_STDERR = 2
_lock = Lock()
_is_ours = False
_users = 0


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """Write to standard error through a descriptor of its own, so that ``muffled`` silences others alone."""
    global _is_ours
    stream = sys.stderr
    try:
        has_own = stream is None or stream.fileno() != _STDERR
    except (OSError, ValueError):  # captured, as in a notebook or a test
        has_own = True
    if has_own:
        yield
        return
    with _lock:
        sys.stderr = os.fdopen(
            os.dup(_STDERR), "w", buffering=1, encoding=stream.encoding, errors=stream.errors or "backslashreplace"
        )
        _is_ours = True
    try:
        yield
    finally:
        with _lock, contextlib.suppress(OSError):
            _is_ours = False
            sys.stderr.flush()
            sys.stderr.close()
        sys.stderr = stream


@contextlib.contextmanager
def muffled() -> Iterator[None]:
    """Send what is printed to descriptor 2 nowhere, for as long as somebody needs it, in any thread."""
    global _users
    if not _is_ours:
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            _muffle()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _restore()


_saved: int | None = None


def _muffle() -> None:
    global _saved
    _saved = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)


def _restore() -> None:
    global _saved
    if _saved is not None:
        os.dup2(_saved, _STDERR)
        os.close(_saved)
        _saved = None
