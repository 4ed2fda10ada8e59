"""The curves of a run in TensorBoard or Weights & Biases, which get the rows of ``metrics.jsonl`` under the same names.

The step of a row is its number in ``metrics.jsonl``, which is its epoch. Each tracker has a folder in the run folder.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

from shoal.config import settings_of
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.report import ReportData, gallery_picture
from shoal.training.run import Run, Watcher


@runtime_checkable
class Sink(Protocol):
    """Takes rows and a picture, each with its step."""

    def send(self, step: int, row: Mapping[str, int | float]) -> None:
        """Take a row."""

    def show(self, step: int, png: Path) -> None:
        """Take a picture of the clusters."""

    def end(self) -> None:
        """Take no more."""


class EventFile:
    """A new event file in a folder, whose first event takes back what the older files there hold.

    tensorboard's own writer is not used: its thread would print a traceback where the disk is full.

    Args:
        folder: where it is written; made where it is missing.
        settings: hyper-parameters by name.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import hparams

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}").open("xb")  # read in the order of their names
        self._records = RecordWriter(self._file)
        self._write(0, file_version="brain.Event:2")
        self._write(0, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
        as_text = {name: json.dumps(value) for name, value in settings.items() if not _is_plain(value)}
        for summary in hparams({**settings, **as_text}, {}):  # type: ignore[no-untyped-call]
            self._write(0, summary=summary)

    def send(self, step: int, row: Mapping[str, int | float]) -> None:
        """Write a row, down to the system."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        self._write(step, summary=self._summary(value=values))

    def show(self, step: int, png: Path) -> None:
        """Write a picture."""
        with Image.open(png) as picture:
            width, height = picture.size
        image = self._summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png.read_bytes())
        self._write(step, summary=self._summary(value=[self._summary.Value(tag="gallery", image=image)]))

    def end(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), step=step, **content).SerializeToString())
        self._file.flush()


class WandBRun:
    """A run of Weights & Biases, which is told each step once: what a resumed run writes again is the same.

    Its environment variables say where it goes and under which names. ``shoal.json`` in its folder keeps which run it
    is and how many steps it has been told.

    Args:
        folder: where it keeps its files, called wandb.
        settings: hyper-parameters by name.
        quiet: whether it keeps its own messages to itself.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, quiet: bool) -> None:
        import wandb

        self._image = wandb.Image
        self._kept = folder / "shoal.json"
        kept = json.loads(self._kept.read_text()) if self._kept.exists() else {}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "shoal"),
            name=os.environ.get("WANDB_NAME", folder.parent.resolve().name),
            id=kept.get("id", os.environ.get("WANDB_RUN_ID")),
            resume="allow" if kept else None,
            dir=folder.parent,
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=quiet),
        )
        # Offline it does not know how far the run has been told.
        self._told = max(kept.get("steps", 0), self._run.step)

    def send(self, step: int, row: Mapping[str, Any]) -> None:
        """Tell a row, unless it has been told."""
        if step >= self._told:
            self._run.log(dict(row), step=step, commit=True)
            self._told = step + 1
            atomic_write(self._kept, json.dumps({"id": self._run.id, "steps": self._told}).encode())

    def show(self, step: int, png: Path) -> None:
        """Send a picture."""
        self.send(step, {"gallery": self._image(str(png))})

    def end(self) -> None:
        """Send what is left."""
        self._run.finish()


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


TrackerName = Literal["none", "tensorboard", "wandb"]

MAX_CLUSTERS = 100
"""Of a picture: one of more would be longer than anyone scrolls."""


class Tracker(Watcher):
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
            logging.getLogger("shoal").warning(
                f"{self._name} has failed and gets no more of this run, which goes on ({_in_a_line(error)})"
            )
        self._failed = True


def check_installed(name: TrackerName) -> None:
    """Raise a UserError when the tracker's package is not there."""
    # A part of the package, as any folder that happens to be called wandb imports as well.
    part = {"none": "shoal", "tensorboard": "tensorboard.compat", "wandb": "wandb.sdk"}[name]
    try:
        importlib.import_module(part)
    except ImportError as error:
        raise UserError(f"--tracker {name} needs a package that is missing: pip install 'shoal[{name}]'") from error


def open_tracker(name: TrackerName, run: Run, *, quiet: bool) -> Watcher:
    """A tracker that has been told all rows so far; one that says nothing for none.

    Raises:
        UserError: it cannot begin, as without a login.
    """
    if name == "none":
        return Watcher()
    folder, settings = run.folder.path / name, settings_of(run.config)
    try:
        sink = EventFile(folder, settings) if name == "tensorboard" else WandBRun(folder, settings, quiet=quiet)
    except Exception as error:
        raise UserError(f"--tracker {name} cannot begin: {_in_a_line(error)}") from error
    return Tracker(name, sink, run)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
