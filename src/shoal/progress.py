"""What a long job says while it works: a live line on a terminal, plain lines in a pipe, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Takes how many items are done, and of how many."""

SHOWN = ("loss", "acc", "nmi", "ari", "silhouette", "changed")
"""Metrics that fit on a line, in this order."""

FIRST_SECONDS = 10
"""Seconds after which a job without a terminal first prints how far it is."""
QUIET_SECONDS = 60
"""Seconds after which it prints again."""


class Progress:
    """Says nothing but warnings."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def warn(self, text: str) -> None:
        """Warn of something that the user should know, even when quiet."""
        logging.getLogger("shoal").warning(text)

    def say(self, text: str) -> None:
        """Say something that is good to know."""

    def update(self, job: str, done: int, total: int, rate: str = "", *, within: bool = False) -> None:
        """Say how far a job is.

        Args:
            job: what is being done, such as "reading images".
            done: how many items are done.
            total: how many items there are.
            rate: how fast it goes, such as "120 images/s"; by default done and total.
            within: the job is one of many short ones within a longer job, whose bar stays.
        """

    def counter(self, job: str) -> ProgressCallback:
        """``update`` of one job as a function of done and total."""
        return lambda done, total: self.update(job, done, total)

    def epoch(self, row: Mapping[str, int | float], epochs: int) -> None:
        """Say the metrics of a finished epoch, of this many."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Clock:
    """The pace of a job, since it was first heard of, and what it promises."""

    def __init__(self, job: str, total: int) -> None:
        self._job, self._total = job, total
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def is_of_another(self, job: str, done: int, total: int) -> bool:
        """Whether another job has begun; the epochs of a run are one, whose steps are counted through."""
        kind, own = (name.partition(" ")[0] for name in (job, self._job))
        return kind != own or total != self._total or done < self._last[1]

    def set(self, done: int) -> None:
        """Note how far the job is now."""
        self._last = (time.monotonic(), done)
        self._first = self._first or self._last

    def words(self, *, pace: bool) -> list[str]:
        """Items a second if asked for, and the time that is left; nothing before there is something to go by."""
        seconds, done = (now - first for now, first in zip(self._last, self._first or self._last, strict=True))
        if seconds <= 0 or done <= 0:
            return []
        each = done / seconds
        left = duration((self._total - self._last[1]) / each)
        rate = f"{each:.0f} a second" if each >= 1 else f"{1 / each:.0f} s each"
        return [*([rate] if pace else []), *([f"{left} left"] if self._last[1] < self._total else [])]


def duration(seconds: float) -> str:
    """Seconds in words of at most two units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class PlainProgress(Progress):
    """A line per epoch, and a line a minute of what takes longer, with its pace and the time that is left."""

    def __init__(self) -> None:
        self._due = time.monotonic() + FIRST_SECONDS
        self._clock = Clock("", 0)

    def say(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def update(self, job: str, done: int, total: int, rate: str = "", *, within: bool = False) -> None:
        """Print a line after ten seconds, and then one a minute."""
        if not within:
            if self._clock.is_of_another(job, done, total):
                self._clock = Clock(job, total)
            self._clock.set(done)
        if time.monotonic() > self._due:
            parts = [f"{job}: {done} of {total}", rate, *([] if within else self._clock.words(pace=not rate))]
            self._print(", ".join(filter(None, parts)))

    def epoch(self, row: Mapping[str, int | float], epochs: int) -> None:
        """Print epoch, metrics, rate and the time that is left on a line."""
        job = f"epoch {row['epoch'] + 1:.0f} of {epochs}" if "loss" in row else "at the end"
        left = self._clock.words(pace=False) if "loss" in row else []
        self._print(", ".join([f"{job:<15} {metrics_line(row)}{_pace(row)}", *left]))

    def _print(self, text: str) -> None:
        self._due = time.monotonic() + QUIET_SECONDS
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is where progress is printed


class TerminalProgress(Progress):
    """One live line: the job, how far, how fast, how long still, and the newest metrics."""

    def __init__(self) -> None:
        self._metrics: dict[str, int | float] = {}
        self._rate = ""
        self._clock = Clock("", 0)
        # All but the metrics keep their width; these take what is left of the line, and only they are cut.
        self._bar = Bar(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len("reading images"))),
            BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True, min_width=len("1000 images/s"))),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[metrics]}", style="dim", table_column=Column(no_wrap=True, ratio=1)),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task: TaskID = self._bar.add_task("starting", rate="", metrics="", total=None)
        self._bar.start()

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        self._bar.console.print(text, markup=False, highlight=False)

    def update(self, job: str, done: int, total: int, rate: str = "", *, within: bool = False) -> None:
        """Move the bar; of a short job within a longer one only say how far it is."""
        if within and self._rate:
            self._bar.update(self._task, rate=f"{job} {done}/{total}" if done < total else self._rate)
            return
        if self._clock.is_of_another(job, done, total):  # how long the last one took says nothing about it
            self._clock = Clock(job, total)
            self._bar.reset(self._task, total=total, completed=done)
        self._clock.set(done)
        self._bar.update(self._task, description=job, completed=done, rate=rate or f"{done}/{total}")
        self._rate = rate

    def epoch(self, row: Mapping[str, int | float], epochs: int) -> None:
        """Show the newest metrics."""
        self._metrics |= row
        self._bar.update(self._task, metrics=metrics_line(self._metrics))

    def close(self) -> None:
        """Take the live line away."""
        self._bar.stop()


def open_progress(*, quiet: bool) -> Progress:
    """The progress that suits where standard error goes."""
    if quiet:
        return Progress()
    return TerminalProgress() if sys.stderr.isatty() else PlainProgress()


def counted(n: int, one: str, many: str = "") -> str:
    """A number and what there is so often: 1 image, 2 images; ``many`` where more than an s makes the plural."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def metrics_line(row: Mapping[str, int | float]) -> str:
    """The metrics of a row that fit on a line."""
    return "  ".join(f"{name} {row[name]:.3f}" for name in SHOWN if row.get(name) is not None)


def _pace(row: Mapping[str, int | float]) -> str:
    """Images per second of an epoch's steps, and what share of the epoch its E-step took."""
    if "images_per_second" not in row:
        return ""
    share = row["e_step_seconds"] / max(row["e_step_seconds"] + row["seconds"], 1e-9)
    return f"  {row['images_per_second']:.0f} images/s, E-step {100 * share:.0f} %"
