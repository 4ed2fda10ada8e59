"""``shoal train``, in one process or under ``torchrun``; its settings are those of ``config.py``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from shoal import distributed, job
from shoal.cli.flags import Command, OptionalPath, join_help, no_such_flag
from shoal.cli.terminal import Stopped, asked_to_stop, complain, say
from shoal.config import RunConfig, fields_of, load_recipe, recipe_names, validate, with_reachable_clusters
from shoal.data import resolve_spec
from shoal.device import return_large_blocks
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.progress import counted
from shoal.testing import check_plugins
from shoal.training.trackers import TrackerName, check_installed


@dataclass(frozen=True)
class TrainCommand(Command):
    """Learn features and clusters of images, and write them to a folder.

    Start from a recipe: its settings are the defaults below, and any of them can be given as a flag.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    out: OptionalPath = None
    """Folder to write; by default runs/RECIPE, or runs/RECIPE-2 and so on when that is taken."""
    resume: OptionalPath = None
    """Resume the run in this folder instead of starting one. Only --epochs and --max-steps may differ: a finished
    run continues for more epochs, and one that ended at --max-steps continues without a limit."""
    answers: bool = False
    """With --resume and a finished run: fine-tune its network on what was said of single images in 'shoal review' and
    'shoal learn'. The outcome gets a folder of its own, --out or RUN-answers, and the run stays as it is."""
    dry_run: bool = False
    """Train and write nothing: print steps, images, parameters and the memory a run would take."""
    strict: bool = False
    """Fail on the first image that cannot be read instead of skipping it."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    profile: Annotated[int | None, tyro.conf.arg(metavar="STEPS", help_behavior_hint="")] = None
    """Profile this many steps: writes profile.txt, and profile.json to open in Chrome."""
    tracker: TrackerName = "none"
    """Send the metrics to TensorBoard or Weights & Biases as well; each is an extra to install."""
    recipe: Annotated[str, tyro.conf.Suppress] = ""
    """Name of the recipe, after which the folder is called."""
    note: Annotated[str, tyro.conf.Suppress] = ""
    """What has been made of the settings, to be said."""
    length: Annotated[tuple[int | None, int | None], tyro.conf.Suppress] = (None, None)
    """With --resume, the --epochs and --max-steps that were given."""

    @classmethod
    def parse(cls, verb: str, args: Sequence[str]) -> TrainCommand:
        """The command that ``shoal train ARGS`` asks for, with every value checked.

        Raises:
            UserError: a recipe, flag or value is wrong.
            SystemExit: help was asked for (0), or a value has the wrong form (2; tyro has said which).
        """
        name = args[0] if args and not args[0].startswith("-") else None
        flags = list(args[1:] if name else args)
        config = load_recipe(name) if name else RunConfig()
        command, unknown = _parsed(cls(config), verb, name, flags)
        if command.resume and ResultFolder(command.resume).is_run and not (name or command.answers):
            config = load_recipe(str(ResultFolder(command.resume).config.absolute()))
            command, unknown = _parsed(cls(config), verb, name, flags)  # against the settings that the run has
        if unknown:
            raise UserError(_about(unknown[0], command))
        if command.profile is not None and command.profile < 1:
            raise UserError(f"--profile {command.profile} must be the number of steps to profile.")
        if command.answers:
            _check_answers(command, has_settings=name is not None or command.config != config or command.strict)
            return command
        if command.resume:
            own = command.config
            same = own == dataclasses.replace(config, epochs=own.epochs, max_steps=own.max_steps)
            if name or not same or command.out or command.strict or command.dry_run:
                raise UserError(
                    "--resume continues a run exactly as it began, but for --epochs and --max-steps: give no recipe "
                    "and no other settings with it."
                )
            given = {flag.partition("=")[0].replace("_", "-") for flag in flags}
            epochs = own.epochs if "--epochs" in given else None
            validate(own, "this command")
            return dataclasses.replace(command, length=(epochs, own.max_steps if "--max-steps" in given else None))
        if not name:
            raise UserError(f"give a recipe, as in 'shoal train propos-digits': there are {', '.join(recipe_names())}.")
        scaled, note = with_reachable_clusters(command.config, config, flags)
        command = dataclasses.replace(command, config=scaled, note=note)
        return _resolved(command, name)

    def run(self) -> int:
        """Train, or print what training would take."""
        if not self.resume:
            check_plugins(self.config)  # by each process for itself
        with job.joined():
            if self.dry_run:
                if not distributed.is_first():
                    return 0
                from shoal.training.dry_run import forecast

                for name, value in forecast(self.config).items():
                    say(f"{name:<12} {value}")
                if self.note:
                    say(f"{'note':<12} {self.note}")
                if self.config.backbone.weights:
                    say(_start_of(self.config))
                return 0
            if self.answers:
                return _fine_tune(self)
            check_installed(self.tracker)
            path = self.resume or self.out or _default_folder(self.recipe)
            return _train(self, path)


def _start_of(config: RunConfig) -> str:
    """What the run would start from, once it has been tried."""
    import torch

    from shoal.features.start import start_from_weights
    from shoal.methods import build
    from shoal.training.dry_run import N_CLUSTERS

    k = N_CLUSTERS if config.n_clusters == "auto" else config.n_clusters
    method = build(config.method, config.backbone, k, torch.Generator())
    return start_from_weights(method, config.backbone)


def _parsed(
    default: TrainCommand, verb: str, name: str | None, flags: Sequence[str]
) -> tuple[TrainCommand, Sequence[str]]:
    """The command, and words that are none of its options."""
    kinds: tuple[type, ...] = (type(default), type(default.config.method))
    for kind in kinds:
        join_help(kind)
    return tyro.cli(
        type(default),
        default=default,
        args=flags,
        prog=f"shoal {verb} {name or 'RECIPE'}",
        config=(tyro.conf.AvoidSubcommands,),
        return_unknown_args=True,
    )


def _check_answers(command: TrainCommand, *, has_settings: bool) -> None:
    """Raise a UserError for what does not go with --answers."""
    if command.resume is None:
        raise UserError("--answers fine-tunes a finished run: give it with --resume RUN.")
    if has_settings or command.dry_run or command.profile is not None or command.tracker != "none":
        raise UserError("--answers takes only --resume, --out and --quiet: the run says what is trained, and how.")


def _fine_tune(command: TrainCommand) -> int:
    """Fine-tune a finished run on answers, and say what came of it."""
    from shoal.progress import open_progress
    from shoal.results.fine_tune import default_out, fine_tune_run

    run = command.resume
    assert run is not None  # checked
    if distributed.world_size() > 1:
        raise UserError("fine-tuning on answers takes one process: start it without torchrun.")
    try:
        with open_progress(quiet=command.quiet) as progress:
            found = fine_tune_run(run, command.out or default_out(run), progress)
    except Stopped as stop:
        complain(f"stopped: {run} is as it was, and nothing was kept; rerun the same command to begin again.")
        return 128 + stop.signum
    if command.quiet:
        return 0
    if found.n_named:
        own = f"the network itself puts {found.n_right} of them there"
        own += f", the clustering without answers {found.n_right_without}"
        say(f"answers      {counted(found.n_named, 'image has', 'images have')} a cluster by a person: {own}")
    if found.n_ruled_out:
        say(f"ruled out    {counted(found.n_ruled_out, 'image is', 'images are')} known not to be in some clusters")
    say(f"changed      {found.n_changed} of {counted(found.outcome.n_rows, 'image')} in another cluster than in {run}")
    say(found.outcome.as_text(found.folder))
    return 0


def _resolved(command: TrainCommand, name: str) -> TrainCommand:
    """Check the values and make the data's paths absolute."""
    config, data = command.config, command.config.data
    strict = data.strict or command.strict
    data = dataclasses.replace(data, path=resolve_spec(data.path), root=resolve_spec(data.root), strict=strict)
    config = validate(dataclasses.replace(config, data=data), "this command")
    return dataclasses.replace(command, config=config, recipe=Path(name).stem)


def _default_folder(recipe: str) -> Path:
    """A folder that is not there yet, the same on all ranks; restarted by ``torchrun``, they resume in the last one."""
    last, path, number = None, Path("runs") / recipe, 1
    while path.exists():
        number += 1
        last, path = path, Path("runs") / f"{recipe}-{number}"
    again = distributed.restarted()
    return Path(job.of_first(lambda: str(last if last and again else path)))


def _train(command: TrainCommand, path: Path) -> int:
    """Bring the run in ``path`` from where it stands to its end; the first process speaks and writes."""
    from shoal.training.run import Interrupted

    first = distributed.is_first()
    try:
        outcome = _to_its_end(command, path)
    except (Interrupted, Stopped) as stop:
        if not ResultFolder(path).is_run:  # nothing has begun that could be resumed
            raise
        how = "stopped and saved" if isinstance(stop, Interrupted) else "stopped"
        if first:
            complain(f"{how}. Resume with:  shoal train --resume {shlex.quote(str(path))}")
        return 128 + stop.signum
    if first and not command.quiet:
        say(outcome)
    return 0


def _to_its_end(command: TrainCommand, path: Path) -> str:
    """Summary of the finished run."""
    from shoal.progress import open_progress
    from shoal.results.train import reopen, start, train
    from shoal.training import fit
    from shoal.training.lengthen import lengthen
    from shoal.training.profile import Profile
    from shoal.training.run import Watcher
    from shoal.training.trackers import open_tracker

    first = distributed.is_first()
    quiet = command.quiet or not first
    return_large_blocks()
    begun = distributed.any_rank(first and ResultFolder(path).is_run)
    resumed = command.resume or (distributed.restarted() and begun)
    text = ""
    with open_progress(quiet=quiet) as progress:
        run = reopen(path, progress) if resumed else start(command.config, path, progress)
        if command.note:
            progress.say(f"note         {command.note}")
        if command.resume and (said := lengthen(run, *command.length)):
            progress.say(said)
        for name, words in run.in_words().items():
            progress.say(f"{name:<12} {words}")
        tracked = command.tracker if first else "none"
        profile = Profile(command.profile) if command.profile and first else Watcher()
        with asked_to_stop(run), open_tracker(tracked, run, quiet=quiet) as tracker, profile:
            watchers = [each for each in (tracker, profile) if type(each) is not Watcher]
            if first:
                _, outcome = train(run, progress, watchers)
                text = "\n".join([*_scores(run.scores), outcome.as_text(run.folder)])
            else:
                fit(run, progress)
    if command.profile and first and not run.folder.profile.exists():
        complain(
            f"the run ended before --profile had seen its {counted(command.profile, 'step')}, since the first few are "
            "left out: give more --epochs or --max-steps, or a smaller --profile."
        )
    return text


def _scores(scores: Mapping[str, float]) -> list[str]:
    """Signals of the last E-step; agreement with labels and the number of clusters stand in the outcome."""
    elsewhere = ("acc", "nmi", "ari", "fmi", "clusters")
    return [f"{name:<12} {value:.4f}" for name, value in scores.items() if name not in elsewhere]


def _about(word: str, command: TrainCommand) -> str:
    """What to say to a word that is not an option."""
    if word in recipe_names() or word.endswith((".yaml", ".yml")):
        return f"the recipe comes first: shoal train {word} --flags"
    if word.partition("=")[0] == "--method.name":
        return "the recipe says which method: 'shoal recipes' lists them."
    if not word.startswith("-"):
        return f"unexpected argument {word!r}: give settings as flags, such as --epochs 50."
    parts = {"config": RunConfig, "method": type(command.config.method)}
    paths = (path.removeprefix("config.").replace("_", "-") for path, _ in fields_of(TrainCommand, parts))
    return no_such_flag(word, (f"--{path}" for path in paths), "shoal train RECIPE --help")
