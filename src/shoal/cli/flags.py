"""How flags become fields: each command is a dataclass; its fields are its flags, their docstrings its help."""

from __future__ import annotations

import dataclasses
import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_type_hints

import docstring_parser
import tyro

from shoal.errors import UserError

Kind = TypeVar("Kind", bound="Command")

_FLAG = re.compile("--?(?!tyro-)[a-zA-Z]")  # those that tyro adds begin with --tyro-

ResultPath: TypeAlias = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULT")]
"""The folder of a result."""

OptionalPath: TypeAlias = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
"""A path that need not be given."""


def one_of(kind: Any) -> Any:
    """For a flag that takes one of the names of a ``Literal`` and need not be given: how help shows it."""
    return tyro.conf.arg(metavar=f"{{{','.join(get_args(kind))}}}", help_behavior_hint="")


@dataclass(frozen=True)
class Command(ABC):
    """A command, as a dataclass: its fields are the flags."""

    plugin: Annotated[
        tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE", help_behavior_hint="")
    ] = field(default=(), kw_only=True)
    """A Python file with a method, an augmentation or a source of images of your own; it is executed. May be given
    several times."""

    @classmethod
    def parse(cls: type[Kind], verb: str, args: Sequence[str]) -> Kind:
        """The command that ``shoal VERB ARGS`` asks for.

        Raises:
            UserError: there is no such flag, a value is out of range, or flags exclude each other.
            SystemExit: help was asked for (0), or a value is missing or has the wrong form (2; tyro has said which).
        """
        _check_known(cls, verb, args)
        join_help(cls)
        command = tyro.cli(cls, args=args, prog=f"shoal {verb}", config=(tyro.conf.FlagCreatePairsOff,))
        command.check()
        return command

    def check(self) -> None:  # noqa: B027 - most commands have nothing to check
        """Raise a UserError for values that do not go together."""

    @abstractmethod
    def run(self) -> int:
        """Do it; the exit status."""


@cache
def join_help(kind: type) -> None:
    """Join the lines of each flag's help, of a dataclass and of those that are its fields: tyro keeps them apart."""
    for owner in filter(dataclasses.is_dataclass, kind.__mro__):
        hints, flags = get_type_hints(owner, include_extras=True), {each.name for each in dataclasses.fields(owner)}
        for doc in docstring_parser.parse_from_object(owner).params:
            text = " ".join((doc.description or "").split())
            if text and doc.arg_name in flags & {*owner.__annotations__}:
                owner.__annotations__[doc.arg_name] = Annotated[hints[doc.arg_name], tyro.conf.arg(help=text)]
        for part in filter(dataclasses.is_dataclass, get_type_hints(owner).values()):
            join_help(part)  # type: ignore[arg-type]


def plugins_among(args: Sequence[str]) -> Iterator[str]:
    """The files that ``--plugin`` names: they are loaded before flags are read, for they may add some."""
    words = iter(takewhile("--".__ne__, args))
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--plugin":
            file = value if equals else next(words, "")
            if not file or file.startswith("-"):
                raise UserError("--plugin needs a Python file, as in --plugin my_method.py.")
            yield file


def _check_known(command: type[Command], verb: str, args: Sequence[str]) -> None:
    """Raise a UserError for an unknown flag; tyro would first miss arguments that it has taken for values."""
    known = {"-h", "--help", *_flags_of(command)}
    for word in takewhile("--".__ne__, args):
        if _FLAG.match(word) and word.partition("=")[0].replace("_", "-") not in known:
            raise UserError(no_such_flag(word, known, f"shoal {verb} --help"))


def no_such_flag(word: str, known: Iterable[str], command: str) -> str:
    """What to say of an unknown flag: the nearest one, or the command that lists all."""
    flag = word.partition("=")[0]
    bare = {each.lstrip("-"): each for each in known}
    near = difflib.get_close_matches(flag.lstrip("-").replace("_", "-"), bare, n=1)
    return f"there is no option {flag}: {f'did you mean {bare[near[0]]!r}?' if near else f'{command!r} lists them.'}"


def _flags_of(kind: Any, prefix: str = "") -> Iterator[str]:
    """The flags of a dataclass and of those that are its fields, with their short forms."""
    hints = get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        part, extras = hints[item.name], getattr(hints[item.name], "__metadata__", ())
        name = f"{prefix}{item.name.replace('_', '-')}"
        if dataclasses.is_dataclass(part):
            yield from _flags_of(part, f"{name}.")
        elif tyro.conf.Positional not in extras:
            yield f"--{name}"
            for extra in extras:
                yield from getattr(extra, "aliases", None) or ()
