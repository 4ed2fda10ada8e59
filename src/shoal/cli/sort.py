"""``shoal sort``: image files into a folder per cluster, and back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shoal.cli.flags import Command, OptionalPath
from shoal.cli.terminal import Stopped, complain, say
from shoal.errors import UserError
from shoal.files import expand_home, real
from shoal.progress import counted
from shoal.sort.manifest import NAME, How

if TYPE_CHECKING:
    from shoal.results.present import PresentImages
    from shoal.results.result import Result
    from shoal.sort.plan import Plan

_SHOWN = 5
"""Files of which it is said why nothing was done."""


@dataclass(frozen=True)
class SortCommand(Command):
    """Sort images into a folder per cluster. Dry run by default; undoable."""

    result: Annotated[OptionalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RESULT")] = None
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    copy: OptionalPath = None
    """Copy the images into this folder."""
    move: OptionalPath = None
    """Move the images into this folder."""
    link: OptionalPath = None
    """Make symbolic links to the images in this folder."""
    assignments: OptionalPath = None
    """Clusters and names as edited and exported in the report, .csv or .json."""
    undo: OptionalPath = None
    """Undo a sort, given the sorted.jsonl in its folder."""
    yes: bool = False
    """Do it; otherwise only show what would happen."""

    def run(self) -> int:
        """Show the plan, carry it out, or undo one."""
        chosen = chosen_sorting(self.copy, self.move, self.link)
        if self.undo is not None:
            if self.result is not None or chosen or self.assignments is not None or self.yes:
                raise UserError("--undo takes no other options: give the manifest alone.")
            return _undo(self.undo)
        if self.result is None or chosen is None:
            raise UserError("give a result and one of --copy, --move and --link, with a folder to sort into.")
        return sort_into(self.result, *chosen, self.assignments, yes=self.yes)


def chosen_sorting(copy: Path | None, move: Path | None, link: Path | None) -> tuple[How, Path] | None:
    """How files are to be sorted, and where to; None if that was not asked for.

    Raises:
        UserError: several ways were given.
    """
    flags: dict[How, Path | None] = {"copy": copy, "move": move, "link": link}
    given = [(how, into) for how, into in flags.items() if into is not None]
    if len(given) > 1:
        raise UserError("files are copied, moved or linked: give one of --copy, --move and --link.")
    return given[0] if given else None


def sort_into(path: Path, how: How, into: Path, assignments: Path | None = None, *, yes: bool) -> int:
    """Sort the images of a result, or say what that would do and how to have it done."""
    from shoal.results.present import PresentImages
    from shoal.results.result import Result
    from shoal.sort.undo import undo

    goal = real(into)
    if real(path) in (goal, *goal.parents):
        raise UserError(f"{into} is the folder of the clusters, or lies in it: sort into a folder of its own.")
    try:
        result = Result.load(path)
        _check_local(result, how)
        _tell_changes(result, goal)
        images = PresentImages(result)
        plan = _plan(result, images, into, assignments)
        plan.check(how)
    except UserError as error:
        raise _with_undo(error, into) from error
    say(plan.summary(how))
    if not yes:
        words = ["shoal", "sort", str(path), f"--{how}", str(into)]
        words += ["--assignments", str(assignments)] if assignments is not None else []
        say(f"nothing has been done yet; to do it: {shlex.join([*words, '--yes'])}")
        return 0
    left_out: list[str] = []
    try:
        manifest = plan.carry_out(how, images.contents, left_out.append)
    except Stopped as stop:
        complain(" ".join(["stopped.", *getattr(stop, "__notes__", [])]))
        return 128 + stop.signum
    if len(left_out) == sum(plan.folders.values()):
        undo(manifest)
        raise UserError(f"no image could be read as it was clustered; nothing is in {into}. {left_out[0]}")
    for reason in left_out[:_SHOWN]:
        complain(f"left out: {reason}")
    if len(left_out) > _SHOWN:
        complain(f"and {len(left_out) - _SHOWN} more are left out.")
    say(f"done; to undo it: shoal sort --undo {shlex.quote(str(manifest))}")
    return 0


def _check_local(result: Result, how: How) -> None:
    """Raise a UserError where images in a storage would have to be moved, or linked to."""
    from shoal.data.sources.find import is_stored

    specs = result.source if isinstance(result.source, list) else [result.source]
    stored = next((spec for spec in (*specs, *(spec for _, spec in result.joined)) if is_stored(spec)), "")
    if stored and how != "copy":
        done = {"move": "moved", "link": "linked to"}[how]
        raise UserError(
            f"the images are in {stored}, and only files on this machine are {done}: use --copy, which downloads them; "
            f"or download them yourself, and give their folder to "
            f"'shoal update {shlex.quote(str(result.folder.path))} FOLDER'."
        )


def _tell_changes(result: Result, into: Path) -> None:
    """Say which images stay out of the sorting, since they are gone or others than those that were clustered.

    Raises:
        UserError: there is nothing left to sort; or images are gone that an earlier sorting may have moved.
    """
    from shoal.results.changes import changes_of, none_left

    lines = changes_of(result)
    if not len(result.present):
        raise none_left(result)
    if result.matched.gone.any() and (into / NAME).is_file():
        raise UserError(next(line for line in lines if "gone" in line))
    tell_left_out(result, lines)


def tell_left_out(result: Result, lines: Sequence[str]) -> None:
    """Say what has become of images, and that those that are gone or have changed are left out."""
    from shoal.results.changes import update_hint

    for line in lines:
        complain(line)
    if len(result.present) < len(result.ids):
        complain(f"images that are gone or have changed are left out; {update_hint(result)}")


def _plan(result: Result, images: PresentImages, into: Path, assignments: Path | None) -> Plan:
    from shoal.results.edited import read_edited
    from shoal.sort.plan import plan_sort

    labels, names = result.assignments.labels, dict(result.names)
    if assignments is not None:
        edited = read_edited(assignments)
        labels, names = edited.apply(result.ids, labels), names | dict(edited.names)
        names = {cluster: name for cluster, name in names.items() if name}
    return plan_sort(
        images.ids,
        images.paths,
        labels[result.present],
        names,
        into,
        folders_of_images=images.source_folders,
        sizes=images.sizes,
        archives=images.archives,
    )


def _with_undo(error: UserError, into: Path) -> UserError:
    """Where files have been sorted before, perhaps by a process that was killed, this may be why it fails."""
    earlier = expand_home(into) / NAME
    if not earlier.is_file():
        return error
    return UserError(f"{error} Files have been sorted there before: shoal sort --undo {shlex.quote(str(earlier))}")


def _undo(manifest: Path) -> int:
    from shoal.sort.undo import undo

    done = undo(manifest)
    say(f"undone       {counted(done.n_files, 'file')}")
    if not done.left:
        return 0
    reasons = list(dict.fromkeys(reason.rstrip(".") for reason in done.left))
    shown = "; ".join(reasons[:_SHOWN])
    more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    left = counted(len(done.left), "file is left as it is", "files are left as they are")
    raise UserError(
        f"{left}: {shown}{more}. Resolve these, then undo again; or delete {manifest} if nothing else is to come back."
    )
