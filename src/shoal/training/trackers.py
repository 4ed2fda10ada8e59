"""The metrics of a run in TensorBoard or Weights & Biases: the rows of ``metrics.jsonl`` under the same names.

The step of a row is its number in ``metrics.jsonl``, which is its epoch. Each tracker has a folder in the run folder.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from shoal.config import settings_of
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.report import ReportData, gallery_picture
from shoal.training.run import Run, Watcher

TrackerName = Literal["none", "tensorboard", "wandb"]

MAX_CLUSTERS = 100
"""Most clusters for which a gallery is logged: nobody would scroll through more."""


@runtime_checkable  # so that beartype can check it
class Writer(Protocol):
    """Takes rows and a picture, each with its step."""

    def row(self, step: int, row: Mapping[str, int | float]) -> None:
        """Write a row."""

    def picture(self, step: int, png: Path) -> None:
        """Write a picture of the clusters."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoardWriter:
    """Event files of TensorBoard, which replace those of earlier starts of the run.

    Args:
        folder: where they are written; made where it is missing.
        settings: hyper-parameters by name.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        for older in folder.glob("events.out.tfevents.*"):
            older.unlink()
        self._hook = threading.excepthook
        threading.excepthook = self._report_exception
        # A TensorBoard that has read the older files forgets them for ``purge_step``.
        self._writer: Any = SummaryWriter(str(folder), purge_step=0)
        as_text = {name: json.dumps(value) for name, value in settings.items() if not _is_plain(value)}
        for summary in hparams({**settings, **as_text}, {}):  # type: ignore[no-untyped-call]
            # add_hparams would write to a folder of its own.
            self._writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]

    def _report_exception(self, failed: threading.ExceptHookArgs) -> None:
        """Leave out the traceback of the thread that writes, on a full disk for example: ``flush`` raises the error."""
        if not type(failed.thread).__module__.startswith("tensorboard."):
            self._hook(failed)

    def row(self, step: int, row: Mapping[str, int | float]) -> None:
        """Write a row to disk."""
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, png: Path) -> None:
        """Write a picture to disk."""
        with Image.open(png) as image:
            self._writer.add_image("gallery", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        try:
            self._writer.close()
        finally:
            threading.excepthook = self._hook


class WandBWriter:
    """A run of Weights & Biases, which gets each step once: those that a resumed run repeats are the same.

    Its environment variables say where it goes and under which names. ``shoal.json`` in its folder holds the run's id
    and how many steps it has.

    Args:
        folder: where it keeps its files, called wandb.
        settings: hyper-parameters by name.
        quiet: whether to silence its own messages.
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
        # Offline, wandb does not know which steps it has.
        self._steps = max(kept.get("steps", 0), self._run.step)

    def row(self, step: int, row: Mapping[str, Any]) -> None:
        """Send a row, unless it has been sent."""
        if step >= self._steps:
            self._run.log(dict(row), step=step, commit=True)
            self._steps = step + 1
            atomic_write(self._kept, json.dumps({"id": self._run.id, "steps": self._steps}).encode())

    def picture(self, step: int, png: Path) -> None:
        """Send a picture."""
        self.row(step, {"gallery": self._image(str(png))})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class Tracker(Watcher):
    """Passes a run's rows to a writer, beginning with those that ``metrics.jsonl`` already has.

    After the writer's first failure it is silent, so that no run ends because of a full disk or a network.
    """

    def __init__(self, name: TrackerName, writer: Writer, run: Run) -> None:
        self._name = name
        self._writer = writer
        self._png = run.folder.path / name / "gallery.png"
        self._step = 0
        self._failed = False
        for row in run.folder.read_metrics():
            self.epoch(row)

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """Write a row."""
        self._attempt(lambda: self._writer.row(self._step, row))
        self._step += 1

    def result(self, data: ReportData) -> None:
        """Write a picture of the clusters, unless there are too many."""
        if len(data.clustering.centers) <= MAX_CLUSTERS:
            self._attempt(lambda: self._picture(data))

    def close(self) -> None:
        """Close the writer, even if it has failed."""
        failed, self._failed = self._failed, False
        self._attempt(self._writer.close, warn=not failed)

    def _picture(self, data: ReportData) -> None:
        gallery_picture(data, self._png)
        self._writer.picture(self._step, self._png)

    def _attempt(self, write: Callable[[], None], *, warn: bool = True) -> None:
        if self._failed:
            return
        try:
            write()
        except Exception as error:  # of any kind, as it may come from another's package
            self._failed = True
            if warn:
                text = f"{self._name} failed and gets no more of this run, which continues ({_in_a_line(error)})"
                logging.getLogger("shoal").warning(text)


def check_installed(name: TrackerName) -> None:
    """Raise a UserError when the tracker's package is missing."""
    # A part of the package, as any folder that happens to be called wandb imports as well.
    part = {"none": "shoal", "tensorboard": "tensorboard.compat", "wandb": "wandb.sdk"}[name]
    try:
        importlib.import_module(part)
    except ImportError as error:
        raise UserError(f"--tracker {name} needs a package that is missing: pip install 'shoal[{name}]'") from error


def open_tracker(name: TrackerName, run: Run, *, quiet: bool) -> Watcher:
    """A tracker that has all rows so far; one that does nothing for none.

    Raises:
        UserError: it cannot start, without a login for example.
    """
    if name == "none":
        return Watcher()
    folder, settings = run.folder.path / name, settings_of(run.config)
    try:
        tensorboard = name == "tensorboard"
        writer = TensorBoardWriter(folder, settings) if tensorboard else WandBWriter(folder, settings, quiet=quiet)
    except Exception as error:
        raise UserError(f"--tracker {name} cannot start: {_in_a_line(error)}") from error
    return Tracker(name, writer, run)


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
