"""The folder of a result: what ``shoal train`` and ``shoal cluster`` leave behind.

FOLDER/
  report.html             the clusters to look at, to rename and to merge
  report-12.html          the same of its clusters merged into 12, if that was asked for
  assignments-12.parquet, .csv  assignments to the merged clusters
  assignments.parquet     id, cluster, name, confidence, distance, margin, x, y, label: a row per image
  assignments.csv         the same
  representatives.csv     the most central and the most doubtful images of each cluster
  duplicates.csv          groups of equal and of nearly equal images
  outliers.csv            images that look like no other
  skipped.csv             files that were not read, and why, if any
  changes.csv             images that have come, changed or gone, once ``shoal update`` has run
  atlas.parquet           thumbnails and map of the images that the report shows, also for embedding-atlas
  evaluation.json         figures of the result, once ``shoal evaluate`` has run
  config.yaml             the settings; those of a training run are a recipe that gives it again
  features/               the features that were clustered, with ids, fingerprints and thumbnails of the images
  networks/               of several networks, the features of each, and how they are joined
  decisions.jsonl         what a person has renamed, merged, split, moved and answered, if anything; only added to
  clustered.parquet       the assignments before any decision
  decisions-of-earlier-clusters.jsonl  what was decided before the images were clustered otherwise, if anything
  learned-1.safetensors   what was learned from answers
  graph.safetensors       the nearest neighbours of images, over which answers spread
  clustering.safetensors  the fitted clusterer, which ``predict`` and ``export`` read; written last
  centers.npy             float32 or float64 (k, d), as the features, in the order of the clusters
  suggestion.json, .html  how good each k is, if k was to be chosen
  .lock                   there while a process changes the folder
of a training run also
  model.safetensors       weights
  state.safetensors       all that ``--resume`` needs, replaced atomically
  metrics.jsonl           a row per epoch
  profile.txt, .json      where the time of a step goes, if --profile asked for it
  tensorboard/, wandb/    what a tracker keeps, if one was asked for
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from shoal.errors import UserError
from shoal.files import atomic_write, check_free_folder, try_lock

CLUSTERING_CONFIG = "# shoal cluster\n"
"""How the config.yaml of a clustering begins; any other is the recipe of a training run."""

FINE_TUNED = "# shoal train --resume "
"""How the config.yaml of a run begins that was fine-tuned on answers: with the command, up to the end of the line."""

ASIDE = ".earlier-"
"""Stands before a number behind the name of a folder of features whose images have changed before it was finished."""

UPDATE = ".update"
"""Where an update is staged, within the folder."""

_READY = "ready.json"
"""In a complete update: the files that it removes."""

_LOCK_PAUSE = 0.05
"""Seconds between two looks at an update that another process moves into place."""


class ResultFolder:
    """Paths in a result's folder, and its metrics.

    ``place`` is where the folder will be in the end: an update is staged in a folder within it.
    """

    def __init__(self, path: Path, place: Path | None = None) -> None:
        self.path = path
        self.place = place or path
        self.report = path / "report.html"
        self.assignments = path / "assignments.parquet"
        self.assignments_csv = path / "assignments.csv"
        self.representatives = path / "representatives.csv"
        self.duplicates = path / "duplicates.csv"
        self.outliers = path / "outliers.csv"
        self.changes = path / "changes.csv"
        self.skipped = path / "skipped.csv"
        self.atlas = path / "atlas.parquet"
        self.evaluation = path / "evaluation.json"
        self.decisions = path / "decisions.jsonl"
        self.clustered = path / "clustered.parquet"
        self.earlier = path / "decisions-of-earlier-clusters.jsonl"
        self.graph = path / "graph.safetensors"
        self.config = path / "config.yaml"
        self.features = path / "features"
        self.networks = path / "networks"
        self.clustering = path / "clustering.safetensors"
        self.centers = path / "centers.npy"
        self.suggestion = path / "suggestion.json"
        self.suggestion_page = path / "suggestion.html"
        self.model = path / "model.safetensors"
        self.state = path / "state.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.profile = path / "profile.txt"
        self.trace = path / "profile.json"
        self.lock = path / ".lock"
        self.n_metrics = 0

    @property
    def is_run(self) -> bool:
        """Whether a training run was begun here."""
        return self.config.is_file() and not self.config.read_text("utf-8", "replace").startswith(CLUSTERING_CONFIG)

    @property
    def is_finished(self) -> bool:
        """Whether there are finished clusters."""
        return self.clustering.is_file()

    def check_free(self, *, resumable: bool = False) -> None:
        """Raise a UserError when the folder holds something already.

        Args:
            resumable: what a stopped ``shoal cluster`` has left may be there.
        """
        path = self.path
        if self.is_run:
            raise UserError(
                f"{path} already holds a run: 'shoal train --resume {path}' resumes it, or give another --out."
            )
        if self.is_finished:
            again = f"'shoal cluster {path} -k K --out OTHER' clusters its features again"
            raise UserError(f"{path} already holds clusters: give another --out; {again}.")
        paths = [value for value in vars(self).values() if isinstance(value, Path) and value.parent == path]
        ours = {each.name for each in paths} if resumable else set()
        entries = [entry for entry in path.iterdir() if entry != self.lock] if path.is_dir() else []
        found = {entry.name for entry in entries if not is_unfinished(entry)}
        if not {name.partition(ASIDE)[0] for name in found} <= ours:
            check_free_folder(path)

    def check_finished(self) -> None:
        """Raise a UserError where there are no finished clusters, which says how to get them."""
        if self.is_finished:
            return
        path = self.path
        resume = f"'shoal train --resume {path}'"
        if self.is_run and self.model.is_file():
            kept = self.features.exists()
            why = "lacks clustering.safetensors" if kept else "was trained by shoal 0.1, which kept no features"
            raise UserError(f"{path} {why}: {resume} adds what is missing.")
        if self.is_run:
            raise UserError(f"{path} has not been trained to its end: resume it with {resume}.")
        raise UserError(
            f"{path} holds no finished clusters: give a folder that 'shoal train' or 'shoal cluster' wrote."
        )

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Give the folder another name, so that a new result can be begun under its own; its own again if that fails.

        Raises:
            UserError: it cannot be renamed.
        """
        if not self.path.is_dir():
            yield
            return
        with self.alone():
            pass  # else another process is at it
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}{ASIDE}{number}")).exists():
            number += 1
        try:
            self.path.rename(aside)
        except OSError as error:
            raise UserError(f"{self.path} cannot be renamed to {aside}: {error.strerror}.") from error
        try:
            yield
        except BaseException:
            if not self.path.exists():
                aside.rename(self.path)
            raise

    def staged(self) -> ResultFolder:
        """The folder in which an update is staged; it may have what an interrupted one has left."""
        return ResultFolder(self.path / UPDATE, self.path)

    def put_in_place(self, removed: Sequence[Path]) -> None:
        """Move a complete staged update into place, and remove some files; after a kill, the next reader goes on.

        Held with ``alone``.

        Raises:
            UserError: the folder cannot be written.
        """
        atomic_write(self.path / UPDATE / _READY, json.dumps([path.name for path in removed]).encode())
        self._move_update()

    def complete_update(self) -> None:
        """Move an update into place that was killed while it did so; one that is not complete is left alone.

        Where another process is doing so, this waits for it.

        Raises:
            UserError: the folder cannot be written, or the update is damaged.
        """
        ready = self.path / UPDATE / _READY
        while ready.is_file():
            with self._locked() as is_ours:
                if is_ours and ready.is_file():
                    self._move_update()
            time.sleep(0 if is_ours else _LOCK_PAUSE)

    def _move_update(self) -> None:
        staged = self.path / UPDATE
        ready = staged / _READY
        try:
            removed = [Path(name).name for name in json.loads(ready.read_text("utf-8"))]
            for entry in sorted(staged.iterdir()):
                target = self.path / entry.name
                if entry.is_dir():
                    shutil.rmtree(target, ignore_errors=True)
                    entry.rename(target)
                elif entry != ready:
                    entry.replace(target)
            for name in removed:
                (self.path / name).unlink(missing_ok=True)
            ready.unlink()
            staged.rmdir()
        except (OSError, ValueError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            raise UserError(
                f"the update of {self.path} cannot be put in place from {staged} ({reason}): fix this, then run any "
                "command on the result again."
            ) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from changing the folder meanwhile; an update that was killed as it moved is completed.

        Raises:
            UserError: another process holds the lock, or the folder cannot be written.
        """
        with self._locked() as is_ours:
            if not is_ours:
                raise UserError(f"another process is changing {self.path}: wait until it is done, or close its review.")
            if (self.path / UPDATE / _READY).is_file():
                self._move_update()
            yield

    def sweep(self) -> None:
        """Remove the unfinished files that a kill in the middle of a write has left; nothing else writes meanwhile."""
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether the lock is ours; else another process holds it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock.open("ab")
            while (is_ours := try_lock(file)) and not _is_at(file, self.lock):  # its last holder has removed it
                file.close()
                file = self.lock.open("ab")
        except OSError as error:
            raise UserError(f"the result in {self.path} cannot be written: {error.strerror}.") from error
        with file:
            try:
                yield is_ours
            finally:
                if is_ours:
                    with contextlib.suppress(OSError):  # Windows removes no open file
                        self.lock.unlink()

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
        """The whole rows of ``metrics.jsonl``.

        Raises:
            UserError: the file is damaged.
        """
        if not self.metrics.exists():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            # A kill can leave half a line at the end.
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
            if not all(
                isinstance(row, dict) and not any(isinstance(v, str | list | dict) for v in row.values())
                for row in rows
            ):
                raise ValueError("a row is not a set of numbers")
            return rows
        except ValueError as error:
            raise UserError(f"{self.metrics} is damaged ({error}): bring it back from a copy, or remove it.") from error

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace all rows of ``metrics.jsonl``; a resumed run writes those after its last save again."""
        atomic_write(self.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.n_metrics = len(rows)

    def keep_metrics(self, n: int) -> None:
        """Forget the rows after the first ``n``."""
        self.write_metrics(self.read_metrics()[:n])


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_unfinished(path: Path) -> bool:
    """Whether a file is one that a kill in the middle of a write has left."""
    return path.name.startswith(".") and path.name.endswith(".tmp")
