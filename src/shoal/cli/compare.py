"""``shoal compare``: tables and curves of several results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shoal.cli.flags import Command
from shoal.cli.terminal import one_line, say
from shoal.errors import UserError


@dataclass(frozen=True)
class CompareCommand(Command):
    """Compare results: means over seeds, differences paired by seed, and what is chosen without labels.

    Results whose settings differ in the seed alone are one variant. Differences are from the first.
    """

    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RESULT...")]
    """Folders that 'shoal train' or 'shoal cluster' wrote, or that of a sweep."""
    out: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH...", help_behavior_hint="")] = ()
    """Files to write: .md, .csv, .tex for LaTeX, or .html, with the curves; existing ones are not overwritten."""

    def check(self) -> None:
        """Raise a UserError where nothing is given."""
        if not self.results:
            raise UserError(
                "give the folder of a sweep, or results to compare, as in 'shoal compare sweeps/propos-digits'."
            )

    def run(self) -> int:
        """Print the tables, and write them."""
        from shoal.sweeps.compare import compare
        from shoal.sweeps.tables import as_text, check_free, write

        for path in self.out:
            check_free(path)
        found = compare(self.results)
        say("\n".join(one_line(line) for line in as_text(found).split("\n")))
        for path in self.out:
            write(found, path)
            say(f"\n{path}" if path == self.out[0] else str(path))
        return 0
