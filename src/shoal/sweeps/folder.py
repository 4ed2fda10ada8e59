"""The folder of a sweep: what its runs are, and how far each one is.

FOLDER/
  sweep.json          the runs by name: recipe, settings, seed; more are added, none is taken away
  NAME/               the folder of a run, as ``shoal train`` writes it
  recipes/NAME.yaml   all its settings
  logs/NAME.log       what it has said
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from shoal.config import load_recipe, settings_of, to_yaml
from shoal.errors import UserError
from shoal.files import atomic_write, check_free_folder, try_lock
from shoal.folder import ResultFolder, is_unfinished
from shoal.sweeps.grid import Point

FORMAT = 1
"""Version of sweep.json."""

Status = Literal["done", "begun", "new"]


@dataclass(frozen=True)
class Member:
    """A run as sweep.json names it."""

    name: str
    recipe: str
    settings: Mapping[str, Any]
    seed: int


class SweepFolder:
    """Paths of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = path / "sweep.json"
        self.lock = path / ".sweep.lock"

    @property
    def is_sweep(self) -> bool:
        """Whether a sweep was begun here."""
        return self.index.is_file()

    def run(self, name: str) -> ResultFolder:
        """The folder of a run."""
        return ResultFolder(self.path / name)

    def recipe(self, name: str) -> Path:
        """All settings of a run, as a recipe."""
        return self.path / "recipes" / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """What a run has said."""
        return self.path / "logs" / f"{name}.log"

    def members(self) -> list[Member]:
        """The runs of the sweep.

        Raises:
            UserError: ``sweep.json`` is damaged, or a newer version wrote it.
        """
        try:
            found = json.loads(self.index.read_text(encoding="utf-8"))
            if found["format"] <= FORMAT:
                return TypeAdapter(list[Member]).validate_python(found["runs"])
        except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
            raise UserError(
                f"{self.index} is damaged: remove it and give the command of the sweep again; finished runs are kept."
            ) from error
        raise UserError(f"{self.index} was written by a newer version of shoal: update it.")

    def status(self, point: Point) -> Status:
        """How far a run is.

        Raises:
            UserError: its folder holds a run of other settings.
        """
        folder = self.run(point.name)
        if not folder.config.is_file():
            return "new"
        _check_same(folder.config, point, f"the run {point.name}")
        return "done" if folder.is_finished else "begun"

    def check(self, points: Sequence[Point]) -> None:
        """Raise a UserError unless these runs can be done here: the folder is free, or has those and no others."""
        if not self.is_sweep:
            names = {point.name for point in points} | {"recipes", "logs", self.lock.name}
            entries = self.path.iterdir() if self.path.is_dir() else ()
            left = {entry.name for entry in entries if not is_unfinished(entry)}
            if not left <= names:
                check_free_folder(self.path)
            return
        wanted = {point.name: point for point in points}
        for member in self.members():
            if member.name not in wanted:
                raise UserError(
                    f"{self.path} holds a sweep with the run {member.name}, which this one lacks: repeat its "
                    "command, with more seeds or values if you like, or give another --out."
                )
            if self.recipe(member.name).is_file():
                _check_same(self.recipe(member.name), wanted[member.name], f"the sweep in {self.path}")

    def write(self, points: Sequence[Point]) -> None:
        """Write the recipes of the runs, and then what the runs are.

        Raises:
            UserError: the folder cannot be written.
        """
        for point in points:
            atomic_write(self.recipe(point.name), to_yaml(point.config).encode(), flush=False)
        runs = [{key: getattr(point, key) for key in Member.__annotations__} for point in points]
        text = json.dumps({"format": FORMAT, "runs": runs}, indent=1)
        atomic_write(self.index, f"{text}\n".encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Keep the sweep to this process and to those that get the file descriptor.

        Raises:
            UserError: another process is running it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self.lock.open("ab")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}.") from error
        with file:
            if not try_lock(file):
                raise UserError(
                    f"another process is running the sweep in {self.path}, or runs of a killed one are still saving: "
                    "wait for them."
                )
            yield file.fileno()


def _check_same(recipe: Path, point: Point, what: str) -> None:
    """Raise a UserError when a file has other settings than a run is to have."""
    found, wanted = settings_of(load_recipe(str(recipe.absolute()))), settings_of(point.config)
    other = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if other:
        key = other[0]
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise UserError(
            f"{what} has other settings: {key} is {found.get(key)}, not {wanted.get(key)}{more}. Give another "
            "--out, or remove it."
        )
