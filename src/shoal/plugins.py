"""Code of one's own: methods, augmentations and sources by name, from shoal, a plugin file or an installed package.

A file is executed because a person named it (``--plugin FILE``, ``load_plugin``), a package because it is installed and
says so (entry points). That a result names its plugin never executes anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import linecache
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from shoal.errors import UserError
from shoal.files import expand_home

Kind = TypeVar("Kind")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REGISTRIES: list[Registry[Any]] = []
_FILES: dict[str, str] = {}
"""Path of every plugin file whose classes are known, and the digest of what it held."""

_EXECUTED: set[str] = set()
"""Those that were executed, also in vain."""

BASES = "shoal.methods.Method, shoal.data.Augmentation or shoal.data.ImageSource"
"""What a plugin's classes derive from."""

IN_PYTHON = "(defined in Python)"
"""Stands for the plugin of something that no file holds, as in a notebook."""


class Registry(Mapping[str, type[Kind]], Generic[Kind]):
    """The classes of one kind by name; those of installed packages are imported when they are asked for.

    Args:
        noun: what one is called, such as "method".
        base: the class that each of them derives from.
        group: the group of entry points that packages announce theirs in.
        name_of: gives the name of a class.
        check: raises a UserError for a class that cannot be used; optional.
    """

    def __init__(
        self,
        noun: str,
        base: type[Kind],
        group: str,
        name_of: Callable[[type[Kind]], object],
        check: Callable[[type[Kind]], None] | None = None,
    ) -> None:
        self.noun, self.base, self.group = noun, base, group
        self._name_of, self._check = name_of, check
        self._known: dict[str, type[Kind]] = {}
        self._packages: dict[str, str] = {}  # of those that came from entry points
        _REGISTRIES.append(self)

    def add(self, kind: type[Kind], package: str = "") -> str:
        """Make a class known by its name, which is returned; a class whose definition is run again takes its place.

        Raises:
            UserError: it lacks a name or a hook, or the name is taken.
        """
        name = self.check(kind)
        known = self._known.get(name)
        if known is not None and not _same_definition(known, kind):
            raise UserError(
                f"{place_of(kind)}: there is a {self.noun} {name!r} already, {self.described(name)}: "
                "give yours another name."
            )
        if known is None and not package and (others := self._announced().get(name)):
            raise UserError(
                f"{place_of(kind)}: the installed package {_package(others[0])} has a {self.noun} {name!r} as well: "
                "give yours another name, or leave out --plugin if it is the same."
            )
        self._known[name] = kind
        if package:
            self._packages[name] = package
        return name

    def check(self, kind: type[Kind]) -> str:
        """The name of a class that could be added, whether or not another has it.

        Raises:
            UserError: it lacks a name or a hook.
        """
        where = place_of(kind)
        if missing := sorted(getattr(kind, "__abstractmethods__", ())):
            lacks = " and ".join(missing)
            raise UserError(f"{where}: the {self.noun} {kind.__name__} lacks {lacks}, which every {self.noun} defines.")
        if self._check is not None:
            self._check(kind)
        name = self._name_of(kind)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(
                f"{where}: {kind.__name__} is called {name!r}: the name of a {self.noun} is made of small letters, "
                "digits and underscores, such as 'my_own'."
            )
        return name

    def origin(self, name: str) -> str:
        """The plugin that a known name comes from: a path, a package, or '' for shoal itself."""
        return self._packages.get(name) or origin_of(self[name])

    def described(self, name: str) -> str:
        """Where a known name comes from, in words."""
        return f"of {self.origin(name)}" if self.origin(name) else "which ships with shoal"

    def __getitem__(self, name: str) -> type[Kind]:
        """The class of this name.

        Raises:
            KeyError: there is none.
            UserError: a package announces it, but it cannot be imported or is not such a class.
        """
        if name not in self._known:
            found = self._announced()[name]
            if len(found) > 1:
                names = " and ".join(_package(point) for point in found)
                raise UserError(f"the packages {names} both have a {self.noun} {name!r}: uninstall one of them.")
            self._add_installed(found[0])
        return self._known[name]

    def _add_installed(self, point: EntryPoint) -> None:
        package = _package(point)
        try:
            kind = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise UserError(
                f"the {self.noun} {point.name!r} of the package {package} cannot be imported: {words(error)}."
            ) from error
        if not (isinstance(kind, type) and issubclass(kind, self.base)):
            raise UserError(
                f"{point.value} of the package {package} cannot be the {self.noun} {point.name!r}: it must derive from "
                f"{_base(self)}."
            )
        if (name := self.check(kind)) != point.name:
            raise UserError(
                f"the package {package} announces the {self.noun} {name!r} as {point.name!r}: rename either."
            )
        _FILES.setdefault(_file_of(kind), "")
        _EXECUTED.add(_file_of(kind))
        self.add(kind, package)

    def __iter__(self) -> Iterator[str]:
        """The names, those of installed packages last; nothing is imported."""
        return iter(dict.fromkeys((*self._known, *self._announced())))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._announced()

    def ours(self) -> list[str]:
        """The names of those that ship with shoal."""
        return [name for name in self._known if not self.origin(name)]

    def _announced(self) -> dict[str, list[EntryPoint]]:
        found = _announced(self.group)
        for name in found.keys() & set(self._known) - set(self._packages):
            _warn_of_hidden(self.noun, name, _package(found[name][0]), self.described(name))
        return found

    def take(self, module: ModuleType) -> list[type[Kind]]:
        """Make known what a plugin's module defines; names that begin with an underscore are its own affair."""
        own = [
            each
            for name, each in vars(module).items()
            if isinstance(each, type) and issubclass(each, self.base) and each.__module__ == module.__name__
            if not name.startswith("_")
        ]
        for each in dict.fromkeys(own):
            self.add(each)
        return list(dict.fromkeys(own))


def load_plugin(path: str | Path) -> tuple[type, ...]:
    """Execute a plugin file, and make its methods, augmentations and sources known; they are returned.

    A file that was loaded already is executed again only if it has changed.

    Raises:
        UserError: there is no such file, it cannot be executed, it holds nothing of use, or what it holds is broken or
            has a name that is taken.
    """
    file = expand_home(path)
    source = _read(file)
    file = file.resolve()
    module = _module_of(file)
    digest = hashlib.blake2b(source, digest_size=16).hexdigest()
    if _FILES.get(str(file)) == digest:
        known = [each for registry in _REGISTRIES for each in registry._known.values()]
        return tuple(each for each in known if each.__module__ == module)
    before = [(registry, dict(registry._known)) for registry in _REGISTRIES]
    _FILES[str(file)] = digest
    _EXECUTED.add(str(file))
    try:
        loaded = _executed(module, file, source)
        found = tuple(each for registry in _REGISTRIES for each in registry.take(loaded))
        if not found:
            raise UserError(
                f"the plugin {path} holds nothing for shoal: it should define a class that derives from {BASES}."
            )
    except BaseException:  # Ctrl-C as well: what is half there must not be taken for the whole
        for registry, known_before in before:
            registry._known = known_before
        del _FILES[str(file)]
        raise
    return found


def _read(file: Path) -> bytes:
    if file.suffix != ".py":
        raise UserError(f"{file} is not a plugin: give a .py file.")
    if not file.exists():
        raise UserError(f"there is no plugin {file}: check the path.")
    if not file.is_file():
        raise UserError(f"{file} is not a file: give a Python file.")
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the plugin {file}: {error.strerror}.") from error


def _module_of(file: Path) -> str:
    """A name that no other module has: plugins of two folders may have one name."""
    return f"{file.stem}_{hashlib.blake2b(str(file).encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"


def _executed(name: str, file: Path, source: bytes) -> ModuleType:
    """The module of a file. Nothing is written beside it, as the import system would."""
    linecache.checkcache(str(file))
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses look annotations up there
    try:
        exec(compile(source, str(file), "exec"), vars(module))
    except (SyntaxError, ValueError) as error:  # ValueError: a zero byte
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(file) else None
        if line is None and fault_line(error) is None:
            raise UserError(f"the plugin {file} is not Python: {words(error)}.") from error
        raise UserError(f"the plugin {file} fails in line {line or fault_line(error)}: {words(error)}.") from error
    except KeyboardInterrupt:  # Ctrl-C; the command knows its own from a plugin's
        raise
    except BaseException as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and file.with_name(f"{error.name}.py").exists():
            hint = f" A plugin is one file: put what it needs of {error.name}.py into it, or make a package of both."
        raise UserError(f"the plugin {file} fails in line {fault_line(error)}: {words(error)}.{hint}") from error
    return module


def fault_line(error: BaseException) -> int | None:
    """The line of a plugin's file that an error came through last; None for one of no plugin."""
    found = _fault(error)
    return found[1] if found else None


def told_fault(error: BaseException) -> str | None:
    """A sentence about an error that a plugin's code raised, with its line; None for one that is not a plugin's."""
    found = _fault(error)
    return f"the plugin {found[0]} fails in line {found[1]}: {words(error)}." if found else None


def _fault(error: BaseException) -> tuple[str, int] | None:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in _EXECUTED:
            return frame.filename, frame.lineno or 0
    return _fault(error.__cause__) if error.__cause__ is not None else None


def words(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = (text.strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def origin_of(kind: type) -> str:
    """The file of a plugin that defines a class, '' for one of shoal, or that it was defined in Python."""
    if kind.__module__.partition(".")[0] == "shoal":
        return ""
    return _file_of(kind) or IN_PYTHON


def check_settings(kind: type, what: str) -> None:
    """Raise a UserError for settings of a plugin that flags and recipes cannot be made of; ``what`` names them."""
    params = vars(kind).get("__dataclass_params__")
    if params is None or not params.frozen:
        raise UserError(f"{place_of(kind)}: write @dataclass(frozen=True) above {what}.")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{place_of(kind)}: the setting {field.name} of {kind.__name__} needs a default.")


def place_of(kind: type) -> str:
    """The file and line of a class, as far as there are any."""
    file = _file_of(kind)
    if not file:
        return kind.__name__
    try:
        return f"{file}, line {inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return file


def digest_of(origin: str) -> str:
    """Tells the state of a plugin's file from another; '' for what is not a file."""
    if _FILES.get(origin):
        return _FILES[origin]
    try:
        return hashlib.blake2b(Path(origin).read_bytes(), digest_size=16).hexdigest()
    except (OSError, ValueError):
        return ""


def _file_of(kind: type) -> str:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return str(file) if file and kind.__module__ != "__main__" else ""


def _same_definition(one: type, other: type) -> bool:
    """Whether two classes come from the same lines, run twice: a cell of a notebook, an imported file."""
    places = ((os.path.realpath(_file_of(each)) if _file_of(each) else each.__module__) for each in (one, other))
    return one.__qualname__ == other.__qualname__ and len(set(places)) == 1


def _base(registry: Registry[Any]) -> str:
    module = registry.base.__module__.split(".")
    return f"shoal.{module[1]}.{registry.base.__name__}"


@cache
def _announced(group: str) -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, []).append(point)
    return found


@cache
def _warn_of_hidden(noun: str, name: str, package: str, by: str) -> None:
    logging.getLogger("shoal").warning(
        f"the {noun} {name!r} of the package {package} cannot be used: there is one of that name, {by}."
    )


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value
