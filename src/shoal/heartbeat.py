"""Signs of life between machines: a process of a job that vanishes with its machine is missed within a minute.

On one machine ``torchrun`` notices a process that dies, and ends the others. Of another machine it hears nothing more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

BEAT_SECONDS = 3.0

SILENT_SECONDS = 45.0
"""Without a sign for so long, a process is taken for dead."""

_LEFT = "left"
"""The last sign of a process that has done its part."""


@contextmanager
def heard(store: Any, notes: str, rank: int, world_size: int, when_silent: Callable[[int], object]) -> Iterator[None]:
    """Give signs of life, and listen for those of the others.

    Args:
        store: the store on which signs are left.
        notes: how their names begin.
        rank: of this process.
        world_size: number of processes.
        when_silent: told, in a thread, which process gives no signs any more, or this one itself where the store has
            gone; after that this process ends, whatever it is waiting for. All that is kept survives that.
    """
    ended = Event()

    def beat() -> None:
        last = {each: ("", time.monotonic()) for each in range(world_size) if each != rank}
        number = 0
        while not ended.wait(BEAT_SECONDS):
            number += 1
            silent = _beat_once(store, notes, rank, number, last)
            if silent is not None and not ended.is_set():
                when_silent(silent)
                os._exit(2)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
        ended.set()
        thread.join(SILENT_SECONDS)  # or its next sign would stand for this one
        store.set(f"{notes}alive {rank}", _LEFT)
    finally:
        ended.set()


def _beat_once(store: Any, notes: str, rank: int, number: int, last: dict[int, tuple[str, float]]) -> int | None:
    """Leave a sign, look at those of the others; returns who has been silent for too long."""
    try:
        store.set(f"{notes}alive {rank}", str(number))
        now = time.monotonic()
        for other, (sign, since) in last.items():
            note = f"{notes}alive {other}"
            found = store.get(note).decode() if store.check([note]) else ""
            if found != sign:
                last[other] = (found, now)
            elif found != _LEFT and now - since > SILENT_SECONDS:
                return other
    except RuntimeError:  # the machine that kept the signs is gone
        return rank
    return None
