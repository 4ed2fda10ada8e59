"""The command line: ``main`` finds the command, whose dataclass holds its flags and whose ``run`` does the work.

Nothing heavy is imported before a command needs it, so that help and a mistyped command answer at once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from shoal.cli.terminal import (
    FIRST_SPEAKS,
    OneLine,
    Stopped,
    complain,
    flushed_output,
    on_signals,
    raise_stopped,
    say,
)
from shoal.errors import EchoedError, UserError, did_you_mean
from shoal.launched import is_first_launched, launched
from shoal.noise import own_words

if TYPE_CHECKING:
    from shoal.cli.flags import Command

OVERVIEW = """\
shoal sorts unlabelled images into clusters.

  shoal cluster IMAGES        cluster images by the features of a pretrained network
  shoal train RECIPE          learn features and clusters together
  shoal train --resume RUN    resume an interrupted run
  shoal sweep RECIPE...       train with several seeds and settings, many runs at once
cluster and train write a folder, RESULT, with a report and tables, for
  shoal review RESULT         browse, correct and name clusters, and answer questions, on a local page
  shoal ask RESULT            the same questions as a table
  shoal learn RESULT [FILE]   take in answers or edits, and learn from them
  shoal predict RESULT IMAGES assign new images to its clusters
  shoal update RESULT         take in what has come, changed or gone since
  shoal sort RESULT           put the files into a folder per cluster; dry run by default, undoable
  shoal export RESULT PATH    write it for other programs: ONNX, XMP, Label Studio, FiftyOne
  shoal names RESULT          suggest names for its clusters
  shoal find RESULT TEXT      find images that fit a text
  shoal evaluate RESULT       measure it, or features from a file
  shoal compare RESULT...     compare results, or the runs of a sweep
  shoal report RESULT         write report.html again
and
  shoal recipes [NAME]        list the recipes, or show one
  shoal convert FILE          make a published checkpoint weights that --backbone.weights takes

Try it:                       shoal train propos-digits
On your own images:           shoal cluster photos/ -k 12, or -k auto
Help for a command:           shoal COMMAND --help"""

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""By this torch learns, before it allocates anything, to ask Linux for pages of 2 MB: fewer page faults in training."""

VERBS = {
    "train": "train.TrainCommand",
    "sweep": "sweep.SweepCommand",
    "cluster": "cluster.ClusterCommand",
    "review": "review.ReviewCommand",
    "ask": "learn.AskCommand",
    "learn": "learn.LearnCommand",
    "predict": "results.PredictCommand",
    "update": "update.UpdateCommand",
    "sort": "sort.SortCommand",
    "export": "export.ExportCommand",
    "names": "words.NamesCommand",
    "find": "words.FindCommand",
    "evaluate": "results.EvaluateCommand",
    "compare": "compare.CompareCommand",
    "report": "results.ReportCommand",
    "recipes": "results.RecipesCommand",
    "convert": "convert.ConvertCommand",
}
"""Module and dataclass of each command."""

SHARED = ("train", "cluster", "update", "predict")
"""Commands whose work several processes share."""

HELP = frozenset({"-h", "--help", "help", "--version"})
"""Words that ask for nothing but a text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the status is 0, 2 for a user's mistake, or 128 + the signal that stopped it."""
    args = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault(HUGE_PAGES, "1")
    if logging.lastResort:  # it looks sys.stderr up for each warning, so that a live line can make room
        logging.lastResort.setFormatter(OneLine())
    try:
        with own_words(), on_signals(raise_stopped), flushed_output():
            return _dispatch(args)
    except EchoedError:
        return 2
    except UserError as error:
        complain(str(error), at_once=error.claimed)
        return 2
    except Stopped as stop:
        if is_first_launched():
            complain("stopped.")
        return 128 + stop.signum
    except BrokenPipeError:  # whoever reads the output has seen enough
        return 128 + signal.SIGPIPE
    except BaseException as error:  # a plugin may raise anything, and must not end a command as if it were done
        return _told(error)


def _dispatch(args: list[str]) -> int:
    if not is_first_launched() and (not args or not HELP.isdisjoint(args)):
        return 0  # the first process says it
    if not args or args[0] in ("-h", "--help", "help"):
        say(OVERVIEW)
        return 0
    if args[0] == "--version":
        say(f"shoal {version('shoal')}")
        return 0
    verb, rest = args[0], args[1:]
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS, f"the commands are {', '.join(VERBS)}.")
        raise UserError(f"there is no command {verb!r}: {hint}")
    if verb not in SHARED and (own := launched()) is not None and own.by_torchrun:
        raise UserError(f"'shoal {verb}' works in one process: start it without torchrun (which sets WORLD_SIZE).")
    _load_plugins(rest)
    module, _, name = VERBS[verb].partition(".")
    command = _parsed(getattr(import_module(f"shoal.cli.{module}"), name), verb, rest)
    status: int = command.run()
    return status


def _parsed(kind: type[Command], verb: str, args: list[str]) -> Command:
    """The command, and what is wrong with it said by the first process alone."""
    if is_first_launched():
        return kind.parse(verb, args)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return kind.parse(verb, args)
    except SystemExit:
        time.sleep(FIRST_SPEAKS)  # with the end of this process the first one is ended
        raise


def _load_plugins(args: Sequence[str]) -> None:
    """Execute the files that ``--plugin`` names."""
    if not any(word.startswith("--plugin") for word in args):
        return
    from shoal.cli.flags import plugins_among
    from shoal.plugins import load_plugin

    for file in plugins_among(args):
        load_plugin(file)


def _told(error: BaseException) -> int:
    """Say what failed where that is a plugin's code or the operating system, and raise the error where it is shoal."""
    from shoal.plugins import told_fault

    claimed = getattr(error, "claimed", False)  # of several processes, this one says it
    if (fault := told_fault(error)) is not None:
        complain(fault, at_once=claimed)
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
        complain(f"{error.filename}: {reason}" if error.filename else reason, at_once=claimed)
    else:
        raise error
    return 2
