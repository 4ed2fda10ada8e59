"""Where the time of a step goes: a table, and a trace to open in Chrome or Perfetto."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from statistics import mean

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.training.run import Run, Watcher

PARTS = ("read", "augment", "forward", "backward", "optimiser", "target")
"""Of a step: waiting for pixels, making two views, the losses, their gradients, new weights, target and queue."""

WARM_UP = 5
"""Steps before the profiled ones, in which memory is allocated and kernels are chosen."""


class Profile(Watcher):
    """Profiles ``n_steps`` steps with torch's profiler and writes table and trace to the run folder."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps
        self._profiler: profile | None = None
        self._since = 0.0
        self._seconds: list[float] = []

    def step(self, run: Run) -> None:
        """Start the profiler after the first step and move it on after each of the following ones."""
        if self._profiler is None:
            self._profiler = step_profiler(run.device, self._n_steps, lambda _: self._write(run))
            torch.autograd.set_multithreading_enabled(False)  # kernels of backward count as its own
            self._profiler.start()
        elif self._profiler.step_num < WARM_UP + self._n_steps:
            seconds = finished(run.device) - self._since
            # Before the first step of an epoch there was an E-step.
            if self._profiler.step_num >= WARM_UP and run.state.step > 1:
                self._seconds.append(seconds)
            self._profiler.step()
        self._since = finished(run.device)

    def close(self) -> None:
        """Stop the profiler."""
        if self._profiler:
            self._profiler.stop()
            torch.autograd.set_multithreading_enabled(True)

    def _write(self, run: Run) -> None:
        assert self._profiler is not None
        if self._profiler.step_num < WARM_UP + self._n_steps:  # the run has ended before
            return
        folder, seconds = run.folder, part_seconds(self._profiler, run.device)
        whole = mean(self._seconds or [sum(seconds.values()) / self._n_steps])
        atomic_write(folder.profile, table(seconds, whole, self._n_steps, run.batch_size).encode())
        try:
            self._profiler.export_chrome_trace(str(folder.trace))
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {folder.trace}: {error}") from error
        logging.getLogger("shoal").warning(f"profile of a step: {folder.profile}; its trace: {folder.trace}")


def step_profiler(device: torch.device, n_steps: int, ready: Callable[[profile], None] | None = None) -> profile:
    """A profiler of ``n_steps`` steps after those of the warm-up."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints that it starts, and that there is no GPU
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    steps = schedule(wait=0, warmup=WARM_UP, active=n_steps, repeat=1)
    return profile(activities=activities, schedule=steps, on_trace_ready=ready, acc_events=True)


def part_seconds(profiler: profile, device: torch.device) -> dict[str, float]:
    """Seconds of each part over all profiled steps: on the GPU if there is one, but for the host's wait for pixels."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for event in profiler.key_averages():
        if event.key in seconds and event.device_type.name == "CPU":
            on_gpu = device.type == "cuda" and event.key != "read"
            seconds[event.key] += (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6
    return seconds


def table(seconds: Mapping[str, float], whole: float, n: int, batch_size: int) -> str:
    """Milliseconds and share of each part of a step.

    Args:
        seconds: of each part, over ``n`` steps.
        whole: seconds of one step.
        n: number of profiled steps.
        batch_size: images per step.
    """
    rows = {name: each / n for name, each in seconds.items()}
    rows["host wait"] = max(0.0, whole - sum(rows.values()))
    lines = [f"{'part':<12}{'ms a step':>12}{'share':>9}"]
    lines += [f"{name:<12}{1000 * each:>12.2f}{100 * each / whole:>7.1f} %" for name, each in rows.items()]
    lines.append(f"{'step':<12}{1000 * whole:>12.2f}{100:>7.1f} %")
    lines.append(f"\nMeans of {n} steps: {batch_size / whole:.0f} images/s, with the overhead of the profiler.")
    lines.append(
        "Host wait is the time outside the parts: launching kernels, progress, saves, the order of the images."
    )
    return "\n".join(lines) + "\n"


def finished(device: torch.device) -> float:
    """The time in seconds, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
