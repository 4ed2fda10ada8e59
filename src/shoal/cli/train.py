"""The verb that trains, by one process or by those that ``torchrun`` has started."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.cli.terminal import Stopped, asked_to_stop, complain, say

if TYPE_CHECKING:
    from shoal.cli.flags import TrainCommand
    from shoal.training import Run


def train(args: list[str]) -> int:
    """Learn features and clusters of images; ``shoal train --help`` lists the settings."""
    from shoal import distributed
    from shoal.cli.flags import parse_train
    from shoal.training.folder import RunFolder
    from shoal.training.run import Interrupted
    from shoal.training.trackers import check_installed

    with distributed.joined():
        command = parse_train(args)
        if command.dry_run:
            from shoal.training.dry_run import forecast

            _print_table(forecast(command.config))
            return 0
        path = command.resume or command.out
        assert path is not None
        check_installed(command.tracker)
        try:
            run = _train(command, path)
        except (Interrupted, Stopped) as stop:
            if not RunFolder(path).config.exists():  # nothing has begun that could go on
                raise
            how = "stopped and saved" if isinstance(stop, Interrupted) else "stopped"
            if distributed.is_first():
                complain(f"{how}. Go on with:  shoal train --resume {shlex.quote(str(path))}")
            return 128 + stop.signum
        if distributed.is_first() and not command.quiet:
            _print_table({name: f"{value:.4f}" for name, value in run.scores.items()})
            say(f"clusters     {run.folder.assignments}\nreport       {run.folder.report}")
        return 0


def _train(command: TrainCommand, path: Path) -> Run:
    """The run in ``path`` from where it stands to its end; the first process speaks and writes."""
    from shoal import distributed, training
    from shoal.progress import open_progress
    from shoal.results import train as workflow
    from shoal.training.folder import RunFolder
    from shoal.training.profile import Profile
    from shoal.training.run import Watcher
    from shoal.training.trackers import open_tracker

    first = distributed.is_first()
    quiet = command.quiet or not first
    begun = distributed.any_rank(first and RunFolder(path).config.exists())
    goes_on = command.resume or (distributed.restarted() and begun)
    with open_progress(quiet=quiet) as progress:
        run = workflow.reopen(path, progress) if goes_on else workflow.start(command.config, path, progress)
        tracked = command.tracker if first else "none"
        profile = Profile(command.profile) if command.profile and first else Watcher()
        with asked_to_stop(run), open_tracker(tracked, run, quiet=quiet) as tracker, profile:
            (workflow.train if first else training.fit)(run, progress, [tracker, profile])
    if command.profile and first and not run.folder.profile.exists():
        complain(f"the run ended before --profile had seen its {command.profile} steps: give fewer.")
    return run


def _print_table(rows: Mapping[str, str]) -> None:
    for name, value in rows.items():
        say(f"{name:<12} {value}")
