"""``shoal update``: what has come, changed or gone since, into the clusters of a result."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shoal.cli.flags import Command, ResultPath
from shoal.cli.terminal import Stopped, complain_at_once, say, stopped
from shoal.files import real
from shoal.folder import ResultFolder
from shoal.progress import counted

if TYPE_CHECKING:
    from shoal.results.update import Updated

SOURCE = (
    "Images that join those of the result, or the folder they are in now if they have been moved; by default only the "
    "places that the result knows are looked at again."
)


@dataclass(frozen=True)
class UpdateCommand(Command):
    """Take images that are new or have changed into the clusters of a result, and leave out those that are gone.

    Only these are embedded. Clusters, their names and the assignments of all other images stay as they are. If
    interrupted, rerun the same command to resume.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    source: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE", help=SOURCE, help_behavior_hint="")
    ] = ""
    strict: bool = False
    """Fail on the first new image that cannot be read instead of skipping it."""
    quiet: bool = False
    """Print nothing but warnings and errors."""

    def run(self) -> int:
        """Update, and say what has changed; the processes of a job do it together."""
        from shoal import distributed, job
        from shoal.progress import open_progress
        from shoal.results.result import Result
        from shoal.results.update import update

        with job.together(self, complain_at_once):
            quiet = self.quiet or not distributed.is_first()
            try:
                with job.first_first():  # an update that is whole is put in place once
                    result = Result.load(self.result)
                with open_progress(quiet=quiet) as progress:
                    found = update(result, self.source or None, progress, strict=self.strict)
            except Stopped as stop:
                return stopped(stop, "stopped, and the result is as it was; rerun the same command to resume.")
        if quiet:
            return 0
        if found is None:
            k = len(result.model.numbers)
            say(f"nothing has changed: {counted(len(result.ids), 'image')} in {counted(k, 'cluster')}")
        else:
            say(_as_text(found, result.folder))
        return 0


def _as_text(found: Updated, folder: ResultFolder) -> str:
    counts = {"new": found.n_new, "changed": found.n_changed, "renamed": found.n_renamed, "vanished": found.n_gone}
    what = ", ".join(f"{n} {what}" for what, n in counts.items() if n) or "the place of the images"
    lines = [f"updated      {what}: {folder.changes}"]
    if found.n_far:
        n_new = found.n_new + found.n_changed
        usual = f"{found.n_usual:.0f}" if found.n_usual >= 1 else "hardly one"
        many = f"{found.n_far} of {n_new} new images are far from every cluster ({usual} would be usual)"
        lines.append(f"far          {many}{_advice(found, folder.path)}")
    return "\n".join([*lines, found.outcome.as_text(folder)])


def _advice(found: Updated, path: Path) -> str:
    if found.n_clusters is None:
        return " and unlike each other: look at them in the report"
    words = [
        "shoal",
        "cluster",
        str(path),
        "-k",
        str(found.n_clusters),
        "--out",
        f"{real(path).name}-{found.n_clusters}",
    ]
    return f": cluster again with -k {found.n_clusters}?\n             {shlex.join(words)}"
