"""Quality of the CIFAR-10 recipe by epoch and by time, on a GPU, in slices that go on where the last one stopped.

    python benchmarks/cifar10_gpu.py --out runs/cifar10-0 --minutes 25
    python benchmarks/cifar10_gpu.py --out runs/cifar10-0 --minutes 25      # goes on
    python benchmarks/cifar10_gpu.py --out runs/cifar10-1 --minutes 25 --seed 1 --data-root FOLDER

FOLDER holds the published archive, or the Parquet files of the data set as the Hugging Face hub stores it, train and
test; without it, the archive is downloaded. A slice ends by itself after ``--minutes``, reading of images included, or
at a signal; its state is saved either way. All slices of a run are given the same flags. ACC, NMI and ARI of every
epoch that began with a clustering go to ``curve.jsonl`` in the folder of the run, a line each, with the time that
training and E-steps had taken until then, over all slices; the last E-step, which no row of metrics times, is left out.
Labels are for these scores alone. Once all epochs are done, ``shoal train --resume FOLDER`` writes the report.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from command import SCORES, machine
from shoal.cli.terminal import asked_to_stop
from shoal.config import RunConfig, load_recipe, to_yaml
from shoal.data import DATA_SETS
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import Run, fit
from shoal.training.run import Interrupted, Watcher

Row = dict[str, Any]
LINES = 20
"""At most about this many lines of the table at the end."""


class Curve(Watcher):
    """Writes a line for each epoch with a score, and asks the run to stop when the time is up."""

    def __init__(self, run: Run, time_is_up: Callable[[], bool]) -> None:
        self.path = run.folder.path / "curve.jsonl"
        self._run, self._time_is_up = run, time_is_up
        here = machine()
        self._here = {"device": here["gpu"] or here["cpu"], "torch": here["torch"], "commit": here["commit"]}
        # A run that was killed goes back to its last save: what came after it is not part of the curve.
        before = {row["epoch"]: row for row in self.rows()}
        metrics = run.folder.read_metrics()
        self._write([before.get(row["epoch"], row | self._here) for row in scored(metrics)])

    def rows(self) -> list[Row]:
        """All lines so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def step(self, run: Run) -> None:
        """Look at the clock."""
        self._look()

    def embedding(self, done: int, total: int) -> None:
        """Look at the clock."""
        self._look()

    def epoch(self, row: Mapping[str, int | float]) -> None:
        """Write the epoch's line and tell it."""
        if "acc" not in row:
            return
        *_, newest = scored(self._run.folder.read_metrics())
        self._write([*self.rows(), newest | self._here])
        print(told(newest), flush=True)

    def _look(self) -> None:
        if self._run.stop_signal is None and self._time_is_up():
            self._run.stop_signal = signal.SIGTERM

    def _write(self, rows: Sequence[Row]) -> None:
        atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def scored(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Scores by epoch, and how long training and E-steps had taken when they were known."""
    seconds = 0.0
    for row in metrics:
        seconds += row.get("e_step_seconds", 0.0)
        if "acc" in row:
            rate = {"images_per_second": row["images_per_second"]} if "images_per_second" in row else {}
            yield {"epoch": row["epoch"], **{name: row[name] for name in SCORES}, "seconds": round(seconds, 3), **rate}
        seconds += row.get("seconds", 0.0)


def told(row: Row) -> str:
    """A line of a table."""
    rate = f"{row['images_per_second']:9.0f}" if "images_per_second" in row else "        -"
    return "{epoch:>5}  {acc:.3f}  {nmi:.3f}  {ari:.3f}".format(**row) + f"  {row['seconds'] / 60:8.1f}{rate}"


def train_slice(config: RunConfig, out: Path, time_is_up: Callable[[], bool]) -> tuple[Run, Curve]:
    """Start the run in a folder, or go on with it, until it is done or the time is up."""
    if (out / "config.yaml").exists():
        check_same(config, out)
        atomic_write(ResultFolder(out).config, to_yaml(config).encode())  # the images may have moved
        run = workflow.reopen(out, Progress())
    else:
        run = workflow.start(config, out, Progress())
    curve = Curve(run, time_is_up)
    print("epoch    ACC    NMI    ARI   minutes images/s", flush=True)
    with asked_to_stop(run):
        try:
            fit(run, Progress(), [curve])
        except Interrupted:
            state, n_steps = run.state, run.steps_per_epoch
            print(f"stopped and saved in epoch {state.epoch}, after {state.step} of its {n_steps} steps")
    return run, curve


def check_same(config: RunConfig, out: Path) -> None:
    """Raise a UserError when the run in a folder has other settings, but for the path of its images."""
    known = load_recipe(str(out / "config.yaml"))
    before, now = (to_yaml(replace(each, data=replace(each.data, path="", root=""))) for each in (known, config))
    if before != now:
        changed = [line.strip() for line in before.splitlines() if line not in now.splitlines()]
        raise UserError(f"the run in {out} has other settings ({'; '.join(changed)}): give the same, or another --out.")


def config_of(recipe: str, seed: int, epochs: int | None, data_root: Path | None) -> RunConfig:
    """The recipe with a seed, perhaps shorter, on the data set's files in a folder."""
    config = replace(load_recipe(recipe), seed=seed)
    if epochs:
        config = replace(config, epochs=epochs)
    if data_root:
        root = str(data_root.resolve())
        known = DATA_SETS[config.data.path].published if config.data.path in DATA_SETS else None
        whole = known and all((data_root / name).exists() for name in known.files)
        data = replace(config.data, root=root) if whole else replace(config.data, path=root)
        config = replace(config, data=data)
    return config


def main() -> None:
    """Train for a while and print the curve."""
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, required=True, help="after which this slice ends")
    parser.add_argument("--recipe", default="propos-cifar10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--epochs", type=int, help="fewer than the recipe's; the schedule is then that of the shorter run"
    )
    parser.add_argument("--data-root", type=Path, help="folder with the files of the data set")
    given = parser.parse_args()
    try:
        config = config_of(given.recipe, given.seed, given.epochs, given.data_root)
        run, curve = train_slice(config, given.out, lambda: time.monotonic() - begun > 60 * given.minutes)
    except UserError as error:
        raise SystemExit(str(error)) from None
    rows = curve.rows()
    print(f"\n{given.out}: {'done' if run.done else 'to go on, call this again'}; {curve.path}")
    print("epoch    ACC    NMI    ARI   minutes images/s")
    every = max(1, len(rows) // LINES)
    for number, row in enumerate(rows, 1):
        if number % every == 0 or number == len(rows):
            print(told(row))


if __name__ == "__main__":
    main()
