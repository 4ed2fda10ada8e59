"""Verbs for what becomes of a folder of clusters: images sorted into folders, and a network for other programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.cli.terminal import Stopped, complain, say
from shoal.errors import UserError
from shoal.files import expand_home, real

if TYPE_CHECKING:
    from shoal.sort.manifest import How

TRIED = 8
"""Images that an exported network is tried on."""


def sort(
    clusters: Path | None = None,
    /,
    *,
    copy: Path | None = None,
    move: Path | None = None,
    link: Path | None = None,
    assignments: Path | None = None,
    undo: Path | None = None,
    yes: bool = False,
) -> int:
    """Sort images into a folder for each cluster; without --yes, only show what would happen.

    Args:
        clusters: a folder that "shoal cluster" wrote.
        copy: copy the images into this folder.
        move: move the images into this folder.
        link: make symbolic links to the images in this folder.
        assignments: clusters and names as edited and exported in the report, .csv or .json.
        undo: put back what a sorting did: the sorted.jsonl in its folder.
        yes: do it.
    """
    given: dict[How, Path | None] = {"copy": copy, "move": move, "link": link}
    chosen = [(how, into) for how, into in given.items() if into is not None]
    if undo is not None:
        if clusters is not None or chosen or assignments is not None or yes:
            raise UserError("--undo goes with nothing else: give the manifest alone.")
        return _undo(undo)
    if clusters is None or len(chosen) != 1:
        raise UserError("give a folder of clusters and one of --copy, --move and --link, with a folder to sort into.")
    return sort_into(clusters, *chosen[0], assignments, yes=yes)


def sort_into(clusters: Path, how: How, into: Path, assignments: Path | None = None, *, yes: bool) -> int:
    """Sort the images of a folder of clusters, or say what that would do and how to have it done."""
    from shoal.results.opened import open_clusters
    from shoal.sort.edited import read_edited
    from shoal.sort.plan import plan_sort

    goal = real(into)
    if real(clusters) in (goal, *goal.parents):
        raise UserError(f"{into} is the folder of the clusters, or lies in it: sort into a folder of its own.")
    try:
        found = open_clusters(clusters)
        labels, names = found.clusters, {}
        if assignments is not None:
            edited = read_edited(assignments)
            labels, names = edited.apply(found.ids, labels), dict(edited.names)
        plan = plan_sort(found.ids, found.paths, labels, names, into, found.source)
        plan.check(how)
    except UserError as error:
        raise _with_way_back(error, into) from error
    say(plan.summary(how))
    if not yes:
        words = ["shoal", "sort", str(clusters), f"--{how}", str(into)]
        words += ["--assignments", str(assignments)] if assignments is not None else []
        say(f"nothing has been done yet; to do it: {shlex.join([*words, '--yes'])}")
        return 0
    try:
        manifest = plan.carry_out(how, found.contents)
    except Stopped as stop:
        complain(" ".join(["stopped.", *getattr(stop, "__notes__", [])]))
        return 128 + stop.signum
    say(f"done; to put everything back: shoal sort --undo {shlex.quote(str(manifest))}")
    return 0


def _with_way_back(error: UserError, into: Path) -> UserError:
    """Where files have been sorted before, perhaps by a process that was killed, this may be why it fails."""
    from shoal.sort.manifest import NAME

    earlier = expand_home(into) / NAME
    if not earlier.is_file():
        return error
    return UserError(f"{error} Files have been sorted there before: shoal sort --undo {shlex.quote(str(earlier))}")


def _undo(manifest: Path) -> int:
    from shoal.sort.undo import undo

    done = undo(manifest)
    say(f"undone       {_files(done.n_files)}")
    if not done.left:
        return 0
    shown = "; ".join(reason.rstrip(".") for reason in done.left[:5])
    more = f"; and {len(done.left) - 5} more" if len(done.left) > 5 else ""
    raise UserError(f"{_files(len(done.left))} left as they are: {shown}{more}. See to these, then undo again.")


def _files(n: int) -> str:
    return f"{n} file{'s' if n != 1 else ''}"


def export(clusters: Path, file: Path, /) -> int:
    """Write the backbone and the clusters as one ONNX network, which runs without shoal.

    Args:
        clusters: a folder that "shoal cluster" wrote.
        file: the .onnx file to write; an existing file is not overwritten.
    """
    from shoal.clustering import as_module
    from shoal.export.onnx import check_installed, export_onnx
    from shoal.results.opened import open_clusters

    if file.suffix.lower() != ".onnx":
        raise UserError(f"{file} should end in .onnx: the ending says the format.")
    if file.exists():
        raise UserError(f"{file} exists already: give another name.")
    check_installed()
    found = open_clusters(clusters)
    clustering = as_module(found.clustered.clusterer)
    about = found.preparation()
    deviation = export_onnx(found.backbone(), clustering, found.prepared(TRIED), file, preparation=about, names={})
    say(
        f"network      {file}, {file.stat().st_size / 1e6:.1f} MB\n"
        f"checked      on {deviation.n_images} images: features differ from PyTorch's by at most "
        f"{deviation.features:.1e}, probabilities by {deviation.probabilities:.1e}"
    )
    return 0
