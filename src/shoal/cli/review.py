"""``shoal review``: look at the clusters of a result on a local page, correct them and answer questions."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated

import tyro

from shoal.cli.flags import Command, ResultPath
from shoal.cli.terminal import say


@dataclass(frozen=True)
class ReviewCommand(Command):
    """Open a local page on which to look at the clusters of a result, name, merge, split and correct them.

    The page also asks questions about images, and learns from the answers. What you decide is kept in decisions.jsonl
    as you go, and every other command follows it. Nothing leaves this machine.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    port: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Port to listen on; by default 8377, or any free one."""
    no_browser: bool = False
    """Only print the address instead of opening it."""

    def run(self) -> int:
        """Serve until Ctrl-C."""
        from shoal.results.result import Result
        from shoal.review.serve import serve

        result = Result.load(self.result)
        serve(result, self.port, browser=not self.no_browser, say=say)
        if result.folder.report.exists():  # features have none
            say(f"report       {shlex.quote(str(self.result))}/report.html")
        return 0
