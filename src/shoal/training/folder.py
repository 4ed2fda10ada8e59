"""The folder a run writes.

RUN/
  config.yaml           the recipe that gives this run again
  metrics.jsonl         a row for each epoch
  state.safetensors     all that ``--resume`` needs, replaced atomically
  model.safetensors     weights and cluster centres, once the run is done: what ``predict`` needs
  assignments.parquet   id, cluster, distance, margin, label (if any) of each image
  skipped.csv           files that could not be read, if any
  evaluation.json       figures of the result, once ``shoal evaluate`` has run
  report.html           the result to look at
  profile.txt           where the time of a step goes, and profile.json, its trace, if --profile asked for it
  tensorboard/, wandb/  what a tracker keeps, if one was asked for
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.config import RunConfig, load_recipe, to_yaml
from shoal.errors import UserError
from shoal.files import atomic_write, check_free_folder


class RunFolder:
    """Paths and small files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.state = path / "state.safetensors"
        self.model = path / "model.safetensors"
        self.assignments = path / "assignments.parquet"
        self.skipped = path / "skipped.csv"
        self.evaluation = path / "evaluation.json"
        self.report = path / "report.html"
        self.profile = path / "profile.txt"
        self.trace = path / "profile.json"
        self.n_metrics = 0

    def check_free(self) -> None:
        """Raise a UserError when the folder holds something already."""
        path = self.path
        if self.config.exists():
            raise UserError(
                f"{path} already holds a run: 'shoal train --resume {path}' goes on, another --out starts anew."
            )
        check_free_folder(path)

    def create(self, config: RunConfig) -> None:
        """Start the folder with the run's config."""
        atomic_write(self.config, to_yaml(config).encode())

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, RunConfig]:
        """An existing run's folder and config.

        Raises:
            UserError: there is no run there.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.yaml. Runs are made by 'shoal train'.")
        return folder, load_recipe(str(folder.config.absolute()))

    def sweep(self) -> None:
        """Remove the unfinished files that a kill in the middle of a write has left."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to ``metrics.jsonl``, on disk before any state that counts it."""
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.metrics}: {error.strerror}. Make room, then --resume.") from error
        self.n_metrics += 1

    def read_metrics(self) -> list[dict[str, Any]]:
        """The whole rows of ``metrics.jsonl``."""
        if not self.metrics.exists():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            # A kill can leave half a line at the end.
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError as error:
            raise UserError(f"{self.metrics} is damaged ({error}): bring it back from a copy, or remove it.") from error

    def keep_metrics(self, n: int) -> None:
        """Forget the rows after the first ``n``: a resumed run writes them again."""
        rows = self.read_metrics()[:n]
        atomic_write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.n_metrics = len(rows)

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """List the files that could not be read, and why."""
        write_skipped(skipped, self.skipped)


def write_skipped(skipped: Mapping[str, str], path: Path) -> None:
    """Write a table of the files that could not be read, and why."""
    rows: Sequence[tuple[str, str]] = [("id", "reason"), *skipped.items()]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    atomic_write(path, text.getvalue().encode("utf-8", "surrogateescape"))
