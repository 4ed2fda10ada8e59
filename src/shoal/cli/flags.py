"""The flags of ``shoal train``, those of a recipe's config and a few of its own, and of ``shoal cluster``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from shoal import distributed
from shoal.clustering.rows import ClusteringMethod, Metric
from shoal.config import RunConfig, fields_of, load_recipe, nearest, recipe_names, validate
from shoal.data import resolve_spec
from shoal.errors import UserError
from shoal.files import real
from shoal.results.inputs import EncoderConfig
from shoal.sort.manifest import How
from shoal.training.trackers import TrackerName


@dataclass(frozen=True)
class TrainCommand:
    """Learn features and clusters of images, and write them to a run folder.

    Start from a recipe: its settings are the defaults below, and any of them can be given as a flag.
    """

    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    out: Path | None = None
    """The run folder to write; by default runs/RECIPE, or runs/RECIPE-2 and so on when that is taken."""
    resume: Path | None = None
    """Go on with this run folder instead of starting one; takes no recipe and no settings."""
    dry_run: bool = False
    """Train nothing and write nothing: print steps, images, parameters and how much memory it would take."""
    strict: bool = False
    """Fail on the first image that cannot be read instead of skipping it."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    profile: int | None = None
    """Look at so many steps and write where their time goes: profile.txt, and profile.json to open in Chrome."""
    tracker: TrackerName = "none"
    """Where else the rows of metrics.jsonl go, to be seen as curves; tensorboard and wandb are extras to install."""


@dataclass(frozen=True)
class ClusterCommand:
    """Put images into clusters by the features of a pretrained network, as many as you say or as suit them.

    It writes a folder with a report to look at, a table of who is in which cluster, representatives, duplicates and
    outliers. Stopped, the same command goes on where it was.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Images: a folder, .zip, .tar, Parquet file or table of paths, a pattern
    such as 'photos/**/*.jpg', - for paths on standard input, hf://OWNER/NAME,
    or the name of a data set. Features: a .npy file (n, d), an earlier folder
    of clusters, or digits, whose pixels are then the features."""
    n_clusters: Annotated[int | Literal["auto"], tyro.conf.arg(aliases=("-k",))] = "auto"
    """How many clusters; auto tries several and ranks them."""
    k_range: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """The smallest and the largest number for auto to try; 2 and the square root of the rows if not given."""
    method: ClusteringMethod = "kmeans"
    """k-means, UMAP and k-means in its embedding, a Gaussian mixture, or TEMI's heads, which learn for minutes."""
    backbone: EncoderConfig = field(default_factory=EncoderConfig)
    metric: Metric = "cosine"
    """Distance of rows."""
    seed: int = 0
    """Of everything random."""
    out: Path | None = None
    """The folder to write; by default clusters/NAME, after the source."""
    move: Annotated[Path | None, tyro.conf.arg(metavar="INTO")] = None
    """Say what moving the files into a folder for each cluster would do, and how to have it done."""
    copy: Annotated[Path | None, tyro.conf.arg(metavar="INTO")] = None
    """The same for copies."""
    link: Annotated[Path | None, tyro.conf.arg(metavar="INTO")] = None
    """The same for links."""
    strict: bool = False
    """Fail on the first image that cannot be read instead of skipping it."""
    quiet: bool = False
    """Print nothing but warnings and errors."""

    @property
    def sorting(self) -> tuple[How, Path] | None:
        """How files are to be sorted, and where to; the first where several are given."""
        given: dict[How, Path | None] = {"move": self.move, "copy": self.copy, "link": self.link}
        return next(((how, into) for how, into in given.items() if into is not None), None)


def parse_cluster(args: Sequence[str]) -> ClusterCommand:
    """The command that ``shoal cluster ARGS`` asks for.

    Raises:
        UserError: flags exclude each other.
        SystemExit: help was asked for (0), or a value has the wrong form (2; tyro has said which).
    """
    command = tyro.cli(ClusterCommand, args=args, prog="shoal cluster")
    if command.k_range and command.n_clusters != "auto":
        raise UserError(f"-k {command.n_clusters} leaves no range to try: give --k-range with -k auto.")
    if not 0 <= command.seed < 2**63:
        raise UserError(f"--seed {command.seed} must lie between 0 and 2**63 - 1.")
    if sum(into is not None for into in (command.move, command.copy, command.link)) > 1:
        raise UserError("files are moved, copied or linked: give one of --move, --copy and --link.")
    return dataclasses.replace(command, out=command.out or Path("clusters") / _name_of(command.source))


def _name_of(source: str) -> str:
    """A name for what is made of a source: of photos/, photos.zip and photos/**/*.jpg, photos."""
    whole = source.split("://")[-1]
    plain = whole[: min((whole.find(mark) for mark in "*?[{" if mark in whole), default=len(whole))]
    path = real(plain or "images")
    if os.path.isdir(path):  # noqa: PTH112 - that of a Path fails on a name that is too long
        return path.name or "images"
    name = path.name if plain != "-" else "stdin"
    return name.removesuffix("".join(Path(name).suffixes[-2:])) if ".tar." in name else Path(name).stem or "images"


def parse_train(args: Sequence[str]) -> TrainCommand:
    """The command that ``shoal train ARGS`` asks for, with every value checked.

    Raises:
        UserError: a recipe, flag or value is wrong.
        SystemExit: help was asked for (0), or a value has the wrong form (2; tyro has said which).
    """
    name = args[0] if args and not args[0].startswith("-") else None
    flags = list(args[1:] if name else args)
    config = load_recipe(name) if name else RunConfig()
    prog = f"shoal train {name or 'RECIPE'}"
    command, unknown = tyro.cli(
        TrainCommand,
        default=TrainCommand(config),
        args=flags,
        prog=prog,
        config=(tyro.conf.AvoidSubcommands,),
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(_about(unknown[0], command))
    if command.profile is not None and command.profile < 1:
        raise UserError(f"--profile {command.profile} must be the number of steps to look at.")
    if command.resume:
        if name or command.config != config or command.out or command.strict or command.dry_run:
            raise UserError("--resume goes on with a run exactly as it began: give no recipe or settings with it.")
        return command
    if not name:
        raise UserError(f"give a recipe, as in 'shoal train propos-digits': there are {', '.join(recipe_names())}.")
    return _settle(command, name)


def _settle(command: TrainCommand, name: str) -> TrainCommand:
    """Check the values, make the data's paths ones that hold from any folder, choose the run folder."""
    config, data = command.config, command.config.data
    path = resolve_spec(data.path)
    data = dataclasses.replace(data, path=path, root=resolve_spec(data.root), strict=data.strict or command.strict)
    config = validate(dataclasses.replace(config, data=data), "this command")
    return dataclasses.replace(command, config=config, out=command.out or _default_folder(Path(name).stem))


def _default_folder(name: str) -> Path:
    """A folder that is not there yet, the same on all ranks; started again, the ranks go on in the last that is."""
    last, path, number = None, Path("runs") / name, 1
    while path.exists():
        number += 1
        last, path = path, Path("runs") / f"{name}-{number}"
    again = distributed.restarted()
    return Path(distributed.text_of_first(str(last if last and again else path)))


def _about(word: str, command: TrainCommand) -> str:
    """What to say to a word that is no option."""
    if word in recipe_names() or word.endswith((".yaml", ".yml")):
        return f"the recipe comes first: shoal train {word} --flags"
    if word.partition("=")[0] == "--method.name":
        return "the recipe says which method: 'shoal recipes' lists them."
    if not word.startswith("-"):
        return f"{word!r} is one word too many: settings are given as flags, such as --epochs 50."
    parts = {"config": RunConfig, "method": type(command.config.method)}
    known = [f"--{path.removeprefix('config.')}" for path, _ in fields_of(TrainCommand, parts)]
    hint = nearest(word.partition("=")[0].replace("_", "-"), [k.replace("_", "-") for k in known])
    return f"there is no option {word}: {hint or 'shoal train RECIPE --help lists them.'}"
