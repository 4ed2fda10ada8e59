"""What a part of a process takes: seconds, CPU seconds, and memory beyond that of the libraries."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_EVERY = 0.01
"""Seconds between two looks at the memory."""


class Memory:
    """Memory of this process in MB, looked at all the time; what it has at the start is that of the libraries.

    Anonymous memory is what the process needs. The rest of what is resident are pages of files that it has mapped,
    which the system drops when others need the room.
    """

    def __init__(self) -> None:
        self._start = self._now()
        self._most = [0.0, 0.0]
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._most = [max(pair) for pair in zip(self._most, self._grown(), strict=True)]
            time.sleep(_EVERY)

    @staticmethod
    def _now() -> tuple[float, float]:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        anonymous, resident = (int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
        return anonymous, resident

    def _grown(self) -> list[float]:
        return [now - start for now, start in zip(self._now(), self._start, strict=True)]

    def peak(self) -> dict[str, float]:
        """The most since the last call."""
        self._most, (anonymous, resident) = [0.0, 0.0], (max(p) for p in zip(self._most, self._grown(), strict=True))
        return {"MB": round(anonymous, 1), "with maps MB": round(resident, 1)}


@contextmanager
def measured(memory: Memory, figures: dict[str, float]) -> Iterator[None]:
    """Add what the block takes to the figures."""
    memory.peak()
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    figures |= {"s": round(time.perf_counter() - wall, 2), "CPU s": round(time.process_time() - cpu, 2)}
    figures |= memory.peak()


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return {"processor": model, "cores": os.cpu_count() or 0}
    return {"processor": "unknown", "cores": os.cpu_count() or 0}
