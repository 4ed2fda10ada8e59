"""How flags become fields: each verb is a dataclass, whose fields are its flags and whose docstrings are its help."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tyro

from shoal.errors import UserError

Kind = TypeVar("Kind", bound="Command")


class Command(ABC):
    """A verb of the command, as a dataclass: its fields are the flags."""

    @classmethod
    def parse(cls: type[Kind], verb: str, args: Sequence[str]) -> Kind:
        """The command that ``shoal VERB ARGS`` asks for.

        Raises:
            UserError: a value is out of range, or flags exclude each other.
            SystemExit: help was asked for (0), or a flag is unknown or has the wrong form (2; tyro has said which).
        """
        command = tyro.cli(cls, args=args, prog=f"shoal {verb}")
        command.check()
        return command

    def check(self) -> None:
        """Raise a UserError for values that do not go together."""

    @abstractmethod
    def run(self) -> int:
        """Do it; the exit status."""


def one_of(flags: Mapping[str, Any]) -> str | None:
    """The one flag that was given, None if there is none.

    Raises:
        UserError: several were given.
    """
    given = [name for name, value in flags.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'--{name}' for name in given)} exclude each other: give one of them.")
    return given[0] if given else None
