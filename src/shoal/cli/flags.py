"""How flags become fields: each verb is a dataclass, whose fields are its flags and whose docstrings are its help."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import tyro

Kind = TypeVar("Kind", bound="Command")

ResultPath: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULT")]
"""The folder of a result."""

OptionalPath: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
"""A path that need not be given."""


class Command(ABC):
    """A verb of the command, as a dataclass: its fields are the flags."""

    @classmethod
    def parse(cls: type[Kind], verb: str, args: Sequence[str]) -> Kind:
        """The command that ``shoal VERB ARGS`` asks for.

        Raises:
            UserError: a value is out of range, or flags exclude each other.
            SystemExit: help was asked for (0), or a flag is unknown or has the wrong form (2; tyro has said which).
        """
        command = tyro.cli(cls, args=args, prog=f"shoal {verb}", config=(tyro.conf.FlagCreatePairsOff,))
        command.check()
        return command

    def check(self) -> None:  # noqa: B027 - most verbs have nothing to check
        """Raise a UserError for values that do not go together."""

    @abstractmethod
    def run(self) -> int:
        """Do it; the exit status."""
