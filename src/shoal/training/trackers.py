"""The curves of a run in TensorBoard or Weights & Biases, which get the rows of ``metrics.jsonl`` under the same names.

The step of a row is its number in ``metrics.jsonl``, which is its epoch. Each tracker has a folder in the run folder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from shoal.config import settings_of
from shoal.errors import UserError
from shoal.report import gallery_picture
from shoal.training.log import Log
from shoal.training.sinks import EventFile, Sink, WandBRun

if TYPE_CHECKING:
    from shoal.report import ReportData
    from shoal.training.state import Run

TrackerName = Literal["none", "tensorboard", "wandb"]

MAX_CLUSTERS = 100
"""Of a picture: one of more would be longer than anyone scrolls."""


class Tracker(Log):
    """Passes a run's rows on to a sink, beginning with those that ``metrics.jsonl`` has already.

    From the sink's first failure on it is silent, so that no run ends for a full disk or a network.
    """

    def __init__(self, name: TrackerName, sink: Sink, run: Run) -> None:
        self._name = name
        self._sink = sink
        self._png = run.folder.path / name / "gallery.png"
        self._step = 0
        self._failed = False
        for row in run.folder.read_metrics():
            self.epoch(row)

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """Pass a row on."""
        self._attempt(lambda: self._sink.send(self._step, row))
        self._step += 1

    def result(self, data: ReportData) -> None:
        """Pass a picture of the clusters on, unless there are very many."""
        if len(data.clustering.centers) <= MAX_CLUSTERS:
            self._attempt(lambda: self._show(data))

    def close(self) -> None:
        """Let the sink end, one that has failed as well."""
        try:
            self._sink.end()
        except Exception as error:
            self._fail(error)

    def _show(self, data: ReportData) -> None:
        gallery_picture(data, self._png)
        self._sink.show(self._step, self._png)

    def _attempt(self, do: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            do()
        except Exception as error:  # of any kind, as it may come from another's package
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self.note(f"{self._name} has failed and gets no more of this run, which goes on ({_in_a_line(error)})")
        self._failed = True


def check_installed(name: TrackerName) -> None:
    """Raise a UserError when the tracker's package is not there."""
    # A part of the package, as any folder that happens to be called wandb imports as well.
    part = {"none": "shoal", "tensorboard": "tensorboard.compat", "wandb": "wandb.sdk"}[name]
    try:
        importlib.import_module(part)
    except ImportError as error:
        raise UserError(f"--tracker {name} needs a package that is missing: pip install 'shoal[{name}]'") from error


def open_tracker(name: TrackerName, run: Run, *, quiet: bool) -> Log:
    """A tracker that has been told all rows so far; one that says nothing for none.

    Raises:
        UserError: it cannot begin, as without a login.
    """
    if name == "none":
        return Log()
    folder, settings = run.folder.path / name, settings_of(run.config)
    try:
        sink = EventFile(folder, settings) if name == "tensorboard" else WandBRun(folder, settings, quiet=quiet)
    except Exception as error:
        raise UserError(f"--tracker {name} cannot begin: {_in_a_line(error)}") from error
    return Tracker(name, sink, run)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
