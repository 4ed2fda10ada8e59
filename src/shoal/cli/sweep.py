"""``shoal sweep``: recipes × values × seeds, a run each."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shoal.cli.flags import Command, OptionalPath
from shoal.cli.terminal import complain, on_signals, say
from shoal.errors import UserError
from shoal.progress import counted

if TYPE_CHECKING:
    from shoal.sweeps.folder import SweepFolder
    from shoal.sweeps.grid import Point
    from shoal.sweeps.launch import Ended


@dataclass(frozen=True)
class SweepCommand(Command):
    """Train recipes with several seeds and settings, each in a process and a folder of its own.

    Runs that are done are skipped: rerun the same command to resume, or give it more seeds or values to add runs.
    'shoal compare' makes tables of the folder.
    """

    recipes: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE...")]
    """Names of recipes, or paths of YAML files."""
    seeds: str = "0..2"
    """Seeds of each combination: 0..4, or 0,1,7."""
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SETTING=VALUE,VALUE...", help_behavior_hint="")] = ()
    """Values of settings, by their names as flags of 'shoal train', such as optim.lr=0.3,0.6; every combination is
    trained. One value alone sets it for all, such as epochs=30; a list is written in brackets."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Runs at once; by default one for each GPU, or one. They share the threads, and get a GPU each."""
    out: OptionalPath = None
    """Folder to write; by default sweeps/RECIPE."""
    dry_run: bool = False
    """List the runs, and train nothing."""
    quiet: bool = False
    """Print nothing but warnings and errors."""

    def check(self) -> None:
        """Raise a UserError for what is not a sweep."""
        if not self.recipes:
            raise UserError("give a recipe first, as in 'shoal sweep propos-digits': 'shoal recipes' lists them.")
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError("a sweep starts its processes itself: start it without torchrun, and give --jobs.")
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs {self.jobs} runs nothing: give 1 or more.")

    def run(self) -> int:
        """Train what is not done yet."""
        from shoal.sweeps.folder import SweepFolder
        from shoal.sweeps.grid import parse_grid, parse_seeds, plan
        from shoal.sweeps.ready import check_ready

        points = plan(self.recipes, parse_seeds(self.seeds), parse_grid(self.grid))
        folder = SweepFolder(self.out or _default_folder(self.recipes))
        folder.check(points)
        states = {point.name: folder.status(point) for point in points}
        check_ready([point for point in points if states[point.name] == "new"])
        if self.dry_run:
            words = {"done": "done", "begun": "resumed", "new": "new"}
            for name, state in states.items():
                say(f"{words[state]:<8} {folder.path / name}")
            say(f"{counted(len(points), 'run')}, {sum(state == 'done' for state in states.values())} of them done")
            return 0
        left = [point for point in points if states[point.name] != "done"]
        ended = self._train(folder, points, left)
        return self._summary(folder, points, ended)

    def _train(self, folder: SweepFolder, points: list[Point], left: list[Point]) -> Ended:
        from shoal.progress import open_progress
        from shoal.sweeps.launch import Launcher, Machine, stop_handler

        command = [sys.executable, "-m", "shoal.cli.child"]
        with folder.locked() as lock:
            folder.check(points)  # another process may have been at it
            folder.write(points)
            launcher = Launcher(folder, Machine.of(self.jobs), command, self.plugin, lock)
            with open_progress(quiet=self.quiet) as progress, on_signals(stop_handler(launcher)):
                return launcher.run(left, points, progress)

    def _summary(self, folder: SweepFolder, points: list[Point], ended: Ended) -> int:
        done = sum(folder.run(point.name).is_finished for point in points)
        for failure in ended.failed:
            complain(f"{failure.point.name} failed: {failure.reason} (log: {failure.log})")
        if ended.signum is not None:
            complain(f"stopped with {done} of {counted(len(points), 'run')} done; rerun the same command to resume.")
            return 128 + ended.signum
        if ended.failed:
            raise UserError(
                f"{len(ended.failed)} of {counted(len(points), 'run')} failed: fix this and rerun the same command, "
                "which skips those that are done."
            )
        if not self.quiet:
            n = len(points)
            say(f"{'run ' if n == 1 else 'runs'}         {n}: {folder.path}")
            plugins = [word for file in self.plugin for word in ("--plugin", str(file))]
            say(f"tables       {shlex.join(['shoal', 'compare', str(folder.path), *plugins])}")
        return 0


def _default_folder(recipes: tuple[str, ...]) -> Path:
    """The same for the same recipes, so that the same command resumes."""
    first, *others = [Path(recipe).stem for recipe in recipes]
    return Path("sweeps") / (f"{first}-and-{len(others)}-more" if others else first)
