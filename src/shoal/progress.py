"""What a training run says while it works: live on a terminal, plain lines in a pipe, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

if TYPE_CHECKING:
    from shoal.report import ReportData
    from shoal.training.run import Run

SHOWN = ("loss", "acc", "nmi", "ari", "silhouette", "changed")
"""Metrics that fit on a line, in this order."""


class Log:
    """Says nothing."""

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def note(self, text: str) -> None:
        """Warn of something that the user should know, however quiet."""
        logging.getLogger("shoal").warning(text)

    def reading(self, done: int, total: int) -> None:
        """Images decoded so far."""

    def embedding(self, done: int, total: int) -> None:
        """Images embedded so far in an E-step."""

    def heads(self, done: int, total: int) -> None:
        """Epochs that clustering heads have trained so far."""

    def step(self, run: Run) -> None:
        """A step is done."""

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """An epoch is done, with its metrics."""

    def result(self, data: ReportData) -> None:
        """The run is done, with what its report shows."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Logs(Log):
    """Tells several; a warning is spoken once. Each is closed by whoever opened it."""

    def __init__(self, *logs: Log) -> None:
        self._logs = logs

    def reading(self, done: int, total: int) -> None:
        """Tell each."""
        for log in self._logs:
            log.reading(done, total)

    def embedding(self, done: int, total: int) -> None:
        """Tell each."""
        for log in self._logs:
            log.embedding(done, total)

    def step(self, run: Run) -> None:
        """Tell each."""
        for log in self._logs:
            log.step(run)

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """Tell each."""
        for log in self._logs:
            log.epoch(row)

    def result(self, data: ReportData) -> None:
        """Tell each."""
        for log in self._logs:
            log.result(data)


class PlainLog(Log):
    """A line per epoch, and in long epochs a line a minute."""

    def __init__(self) -> None:
        self._spoke_at = time.monotonic()

    def reading(self, done: int, total: int) -> None:
        """A line a minute."""
        self._now_and_then(f"reading images: {done} of {total}")

    def embedding(self, done: int, total: int) -> None:
        """A line a minute."""
        self._now_and_then(f"embedding images: {done} of {total}")

    def heads(self, done: int, total: int) -> None:
        """A line a minute."""
        self._now_and_then(f"training heads: epoch {done} of {total}")

    def step(self, run: Run) -> None:
        """A line a minute."""
        rate = run.step * run.batch_size / max(run.seconds, 1e-9)
        self._now_and_then(f"epoch {run.epoch + 1}, step {run.step} of {run.steps_per_epoch}, {rate:.0f} images/s")

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """Epoch, metrics and rate on a line."""
        what = f"epoch {row['epoch'] + 1:.0f}" if "loss" in row else "at the end"
        self._say(f"{what:<11} {in_words(row)}{_pace(row)}")

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._spoke_at > 60:
            self._say(text)

    def _say(self, text: str) -> None:
        self._spoke_at = time.monotonic()
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the log


class TerminalLog(Log):
    """One live line: what is being done, how far, how fast, how long still, and the newest metrics."""

    def __init__(self) -> None:
        self._metrics: dict[str, int | float] = {}
        self._rate = ""
        # All but the metrics keep their width; these take what is left of the line, and only they are cut.
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len("reading images"))),
            BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True, min_width=len("1000 images/s"))),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[metrics]}", style="dim", table_column=Column(no_wrap=True, ratio=1)),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task: TaskID = self._progress.add_task("starting", rate="", metrics="", total=None)
        self._progress.start()

    def reading(self, done: int, total: int) -> None:
        """Show the images decoded."""
        self._show("reading images", done, total, f"{done}/{total}")

    def embedding(self, done: int, total: int) -> None:
        """Show the images embedded, and after the last the rate again: clustering them takes a while."""
        if not self._rate:  # before the first epoch
            self._show("clustering", done, total, f"{done}/{total}")
        else:
            self._progress.update(self._task, rate=f"{done}/{total} embedded" if done < total else self._rate)

    def heads(self, done: int, total: int) -> None:
        """Show the epochs."""
        self._show("training heads", done, total, f"epoch {done}/{total}")

    def step(self, run: Run) -> None:
        """Show the share of all steps."""
        total = run.config.epochs * run.steps_per_epoch
        self._rate = f"{run.step * run.batch_size / max(run.seconds, 1e-9):.0f} images/s"
        self._show(f"epoch {run.epoch + 1}/{run.config.epochs}", run.steps_done, total, self._rate)

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """Show the newest metrics."""
        self._metrics |= row
        self._progress.update(self._task, metrics=in_words(self._metrics))

    def close(self) -> None:
        """Take the live line away."""
        self._progress.stop()

    def _show(self, what: str, done: int, total: int, rate: str) -> None:
        if self._progress.tasks[0].total != total:  # other work: how long the last took says nothing about it
            self._progress.reset(self._task, total=total, completed=done)
        self._progress.update(self._task, description=what, completed=done, rate=rate)


def in_words(row: Mapping[str, int | float]) -> str:
    """The metrics of a row that fit on a line."""
    return "  ".join(f"{name} {row[name]:.3f}" for name in SHOWN if row.get(name) is not None)


def _pace(row: Mapping[str, int | float]) -> str:
    """Images per second of an epoch's steps, and what part of the epoch the E-step took."""
    if "images_per_second" not in row:
        return ""
    share = row["e_step_seconds"] / max(row["e_step_seconds"] + row["seconds"], 1e-9)
    return f"  {row['images_per_second']:.0f} images/s, E-step {100 * share:.0f} %"


def open_log(*, quiet: bool) -> Log:
    """The log that suits where standard error goes."""
    if quiet:
        return Log()
    return TerminalLog() if sys.stderr.isatty() else PlainLog()
