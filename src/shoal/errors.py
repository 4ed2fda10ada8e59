"""Errors that the user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what shoal was given: its text says what is wrong and what to do next.

    The command line prints the text alone and exits with 2. In Python it is a ``ValueError``, as scikit-learn
    raises for bad input.
    """

    claimed: bool = False
    """Whether this process is the one of several that reports it."""


class EchoedError(UserError):
    """An error that another process of the job has already reported."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A question after the known name that a misspelt one is near to; ``otherwise`` where none is."""
    near = difflib.get_close_matches(name, [*known], n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise
