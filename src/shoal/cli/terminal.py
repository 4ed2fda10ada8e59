"""Signal handling and terminal output."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from shoal.launched import launched

if TYPE_CHECKING:
    from shoal.training import Run

FIRST_SPEAKS = 5.0
"""Seconds that the first process has to itself when all fail."""

OnSignal = Callable[[int, FrameType | None], object]


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM, as an exception: whatever must be tidied up on the way out is."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def on_signals(handler: OnSignal) -> Iterator[None]:
    """Let SIGINT and SIGTERM do something else for a while."""
    before = {signum: signal.signal(signum, handler) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler_before in before.items():
            signal.signal(signum, handler_before)


def raise_stopped(signum: int, _frame: FrameType | None) -> NoReturn:
    """Stop at once, as a handler of signals."""
    raise Stopped(signum)


@contextmanager
def asked_to_stop(run: Run) -> Iterator[None]:
    """Let a signal stop the run after its step, and a second one at once."""

    def ask(signum: int, frame: FrameType | None) -> None:
        if run.stop_signal is not None:
            raise_stopped(signum, frame)
        run.stop_signal = signum

    with on_signals(ask):
        yield


@contextmanager
def flushed_output() -> Iterator[None]:
    """Send the output off here, where a failure can be told, and not when the interpreter ends."""
    try:
        yield
    finally:
        try:
            print(end="", flush=True)  # noqa: T201 - unlike sys.stdout.flush, fine where there is no output at all
        except OSError:
            # What is left in the buffer would fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


def say(text: str) -> None:
    """Print what was asked for; letters that the terminal's encoding lacks as their numbers."""
    try:
        print(text)  # noqa: T201 - a command's output
    except UnicodeEncodeError as error:
        print(text.encode(error.encoding, "backslashreplace").decode(error.encoding))  # noqa: T201 - as above


def complain(text: str, *, at_once: bool = False) -> None:
    """Print what went wrong, to standard error.

    Where ``torchrun`` has started several processes, those but the first wait before they speak: mostly it says the
    same, and with its end they are ended. They do not wait ``at_once``, where they have agreed on who speaks.
    """
    own = launched()
    if own is not None and own.rank and not at_once:
        time.sleep(FIRST_SPEAKS)
        text = f"process {own.rank}: {text}"
    print(f"shoal: {one_line(text)}", file=sys.stderr)  # noqa: T201 - a command's output


def complain_at_once(text: str) -> None:
    """``complain`` where processes have agreed on who speaks."""
    complain(text, at_once=True)


def stopped(stop: Stopped, text: str) -> int:
    """Say that a command was stopped, by one process of a job; returns the exit status."""
    from shoal import job  # it loads torch

    if job.is_first_to_speak():
        complain_at_once(text)
    return 2 if job.has_failed() else 128 + stop.signum


def one_line(text: str) -> str:
    """Write what does not print as its number: a name of a file breaks no line and gives the terminal no orders."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class OneLine(logging.Formatter):
    """Warnings as the command's complaints."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a line."""
        return f"shoal: {one_line(record.getMessage())}"
