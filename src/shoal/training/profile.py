"""Where the time of a step goes: a table that anyone can read, and a trace to open in Chrome or Perfetto."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.training.run import Parts, Run, Watcher

PARTS = ("read", "augment", "forward", "backward", "optimiser", "target")
"""Of a step: waiting for pixels, two views, the method's losses, their gradients, new weights, what follows these."""

WARM_UP = 5
"""Steps that nobody looks at: memory is laid out in them, and kernels are chosen."""


class TimedParts(Parts):
    """Adds up the seconds of each part, letting the device finish it before the next begins."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._step = dict.fromkeys(PARTS, 0.0)
        self._device = device

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part from here to the end of the block."""
        start = finished(self._device)
        yield
        self._step[name] += finished(self._device) - start

    def keep(self, *, counts: bool) -> None:
        """End a step, which counts or does not."""
        if counts:
            self.seconds = {name: each + self._step[name] for name, each in self.seconds.items()}
        self._step = dict.fromkeys(PARTS, 0.0)


class Profile(Watcher):
    """Looks at ``n_steps`` steps part by part, then at as many as they are, and writes both to the run folder.

    Waiting for the device after each part takes from what a GPU does at once; so the whole of a step is timed apart.
    The first step of an epoch is left out, as the E-step stands before it.
    """

    def __init__(self, n_steps: int) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler prints that it starts, and misses a GPU
        self._n_steps = n_steps
        self._warm_up = WARM_UP
        self._since = 0.0
        self._parted: list[float] = []
        self._whole: list[float] = []
        self._timed: TimedParts | None = None
        self._trace: profile | None = None

    def step(self, run: Run) -> None:
        """Count a step, and turn to what is to be seen of the next ones."""
        if len(self._whole) == self._n_steps:
            return
        now, first = finished(run.device), run.step == 1
        took, self._since = now - self._since, now
        if self._warm_up:
            self._warm_up -= 1
        elif self._timed and not self._trace:
            self._timed.keep(counts=not first)
            self._parted += [] if first else [took]
        elif not first:
            self._whole.append(took)
        self._turn(run)

    def _turn(self, run: Run) -> None:
        if not self._warm_up and not self._timed:
            self._timed = run.parts = TimedParts(run.device)
        elif len(self._parted) == self._n_steps and not self._trace:
            run.parts = Parts()
            gpu = [ProfilerActivity.CUDA] if run.device.type == "cuda" else []
            self._trace = profile(activities=[ProfilerActivity.CPU, *gpu])
            self._trace.start()
            self._since = finished(run.device)
        elif len(self._whole) == self._n_steps:
            self._write(run)

    def _write(self, run: Run) -> None:
        assert self._trace is not None
        assert self._timed is not None
        self._trace.stop()
        folder = run.folder
        text = table(self._timed.seconds, sum(self._parted), sum(self._whole), self._n_steps, run.batch_size)
        atomic_write(folder.profile, text.encode())
        try:
            self._trace.export_chrome_trace(str(folder.trace))
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {folder.trace}: {error}") from error
        logging.getLogger("shoal").warning(
            f"where the time of a step goes: {folder.profile}; as a trace: {folder.trace}"
        )


def table(seconds: Mapping[str, float], parted: float, whole: float, n: int, batch_size: int) -> str:
    """Milliseconds and share of each part of a step.

    Args:
        seconds: of each part, over ``n`` steps.
        parted: seconds that these steps took altogether.
        whole: seconds that ``n`` steps took when no part waited for the one before.
        n: steps.
        batch_size: images of a step.
    """
    rows = {**seconds, "host wait": parted - sum(seconds.values())}
    lines = [f"{'part':<12}{'ms a step':>12}{'share':>9}"]
    lines += [f"{name:<12}{1000 * each / n:>12.2f}{100 * each / parted:>7.1f} %" for name, each in rows.items()]
    lines.append(f"{'step':<12}{1000 * parted / n:>12.2f}{100:>7.1f} %")
    pace = f"{1000 * whole / n:.2f} ms, {n * batch_size / whole:.0f} images/s"
    lines.append(f"\nLeft to itself a step took {pace}, the trace included. Means of {n} steps.")
    lines.append("Host wait is what is between the parts: progress, saves, signals, the order of the images.")
    return "\n".join(lines) + "\n"


def finished(device: torch.device) -> float:
    """The time, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
