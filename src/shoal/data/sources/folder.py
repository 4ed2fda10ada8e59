"""Image files in a folder, or a list of them; a million take little more memory than their names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from shoal.data.decode import FORMATS
from shoal.data.listing import Files, Listing, Names, Source
from shoal.errors import UserError
from shoal.files import expand_home

_LOG = logging.getLogger("shoal")


def walk(folder: Path, deepest: int | None = None) -> Iterator[str]:
    """Find all files under a folder but hidden ones: in sorted order, relative to it, with '/' between the parts.

    Links are followed, and each real folder is entered once, so that a circle of links ends. With ``deepest``, files
    of more parts are left out. What shoal has written to a folder in it is passed over, and so is, with a warning, a
    folder in it that may not be listed.

    Raises:
        UserError: a folder cannot be listed.
    """
    entered: set[tuple[int, int]] = set()
    ahead = [iter(_entries(folder, entered))]
    above = [""]
    while ahead:
        entry = next(ahead[-1], None)
        if entry is None:
            ahead.pop()
            above.pop()
        elif not entry.endswith("/"):
            yield above[-1] + entry
        elif deepest is None or len(ahead) < deepest:
            above.append(above[-1] + entry)
            ahead.append(iter(_entries_below(folder / above[-1], entered)))


def _entries_below(folder: Path, entered: set[tuple[int, int]]) -> list[str]:
    try:
        found = _entries(folder, entered)
    except UserError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        _LOG.warning("%s What is in it is left out.", error)
        return []
    return [] if _is_output(folder, found) else found


def _is_output(folder: Path, entries: Sequence[str]) -> bool:
    """Tell a folder of clusters, finished or not, or a run: its tables and pictures are no images to cluster."""
    if "features/" in entries and (folder / "features" / "header.json").is_file():
        return True
    return "clustering.safetensors" in entries or {"config.yaml", "state.safetensors"} <= set(entries)


def _entries(folder: Path, entered: set[tuple[int, int]]) -> list[str]:
    """List a folder that has not been ``entered``, folders with a '/' at their end.

    With the '/', the order of the children is that of all that lies in them, so sorting goes folder by folder.
    """
    try:
        looks = folder.stat()
        if (looks.st_dev, looks.st_ino) in entered:
            return []
        entered.add((looks.st_dev, looks.st_ino))
        with os.scandir(folder) as entries:
            return sorted(f"{e.name}/" if _is_folder(e) else e.name for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_picture(name: str) -> bool:
    """Tell an image file by its extension."""
    return os.path.splitext(name)[1].lower() in FORMATS  # noqa: PTH122 - a Path for each of a million names is slow


def folder_source(folder: Path, names: Sequence[str]) -> Source:
    """Take image files in a folder, named by their paths in it.

    When all of them lie in immediate subfolders, two or more, these are the classes.

    Raises:
        UserError: there is none.
    """
    if not names:
        looked = f"shoal looked for {' '.join(FORMATS)}, .parquet, .zip and .tar"
        raise UserError(f"there are no image files in {folder}: {looked}.")
    root = folder.absolute()
    files = Files(names, os.path.join(root, "").__add__)  # noqa: PTH118 - as above

    def listing() -> Listing:
        labels, classes = subfolder_classes(names)
        return Listing(names, labels, classes, lambda: iter(files), files=files)

    return Source(("folder", str(root)), files, listing)


def subfolder_classes(names: Iterable[str]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Take the subfolders as classes if there are two or more and all names lie exactly one deep; else no labels."""
    numbers: dict[str, int] = {}
    labels: list[int] = []
    deep = True
    for name in names:
        parts = name.split("/", 2)
        deep = deep and len(parts) == 2
        labels.append(numbers.setdefault(parts[0], len(numbers)) if deep else -1)
    if not deep or len(numbers) < 2:
        return np.full(len(labels), -1), ()
    classes = tuple(sorted(numbers))
    place = np.empty(len(classes), np.int64)
    place[[numbers[name] for name in classes]] = np.arange(len(classes))
    return place[np.array(labels)], classes


def list_source(paths: Sequence[str | Path]) -> Source:
    """Take the image files of a list, in its order and named as they are there.

    Raises:
        UserError: the list is empty, or one of its files is missing.
    """
    if not paths:
        raise UserError("the list of images is empty: give at least one path.")
    ids = Names(str(path) for path in paths)
    here = Path.cwd()
    files = Files(ids, lambda name: str(here / expand_home(name)))
    # Those of a Path fail on names that are too long.
    for name, file in zip(ids, files.texts(), strict=True):
        if not os.path.isfile(file):  # noqa: PTH113
            what = f"{name} is a folder" if os.path.isdir(file) else f"there is no file {name}"  # noqa: PTH112
            raise UserError(f"{what}: mend or remove it in the list of images.")
    listing = Listing(ids, np.full(len(ids), -1), (), lambda: iter(files), files=files)
    return Source(Names(chain(["list"], ids)), files, lambda: listing)


_MAGIC = re.compile(r"[*?\[{]")
_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000  # paths that braces may stand for


def is_pattern(spec: str) -> bool:
    """Tell a pattern from a path that is meant as it stands."""
    return _MAGIC.search(spec) is not None


def root_of(pattern: str) -> Path:
    """The folder in which a pattern begins: its parts before the first one with a wildcard or brace."""
    fixed = pattern[: _MAGIC.search(pattern).start()]  # type: ignore[union-attr]
    return expand_home(fixed[: fixed.rfind("/") + 1] or ".")


def matches(pattern: str) -> Iterator[str]:
    """Find the files that a pattern stands for: in sorted order, relative to ``root_of`` it.

    ``*``, ``?`` and ``[a-c]`` stand for letters of one part of a path, ``**`` for any folders or none, ``{a,b}`` and
    ``{00..99}`` for each of them. Hidden files are passed over.

    Raises:
        UserError: a folder cannot be listed, or the braces stand for too much.
    """
    begin = pattern.rfind("/", 0, _MAGIC.search(pattern).start()) + 1  # type: ignore[union-attr]
    rest = pattern[begin:]
    deepest = None if "**" in rest else rest.count("/") + 1
    wanted = re.compile("|".join(map(_regex, _expanded(rest, pattern))))
    return (name for name in walk(root_of(pattern), deepest) if wanted.fullmatch(name))


def lacking(pattern: str, found: set[str]) -> str | None:
    """Name the first path that the braces of a pattern without wildcards spell out, and that was not ``found``."""
    begin = pattern.rfind("/", 0, _MAGIC.search(pattern).start()) + 1  # type: ignore[union-attr]
    return next((n for n in _expanded(pattern[begin:], pattern) if not is_pattern(n) and n not in found), None)


def _expanded(text: str, pattern: str) -> list[str]:
    """Spell out what braces stand for."""
    done, ahead = [], [text]
    while ahead:
        here = ahead.pop()
        brace = _BRACE.search(here)
        if brace is None:
            done.append(here)
            continue
        options = brace[1].split(",")
        if span := _RANGE.fullmatch(brace[1]):
            first, last = int(span[1]), int(span[2])
            if abs(last - first) >= _MOST:
                raise UserError(f"{pattern} stands for more than {_MOST} paths: use *, or a list of paths.")
            options = [str(number).zfill(len(span[1])) for number in range(first, last + 1)]
        ahead += [here[: brace.start()] + option + here[brace.end() :] for option in reversed(options)]
        if len(ahead) + len(done) > _MOST:
            raise UserError(f"{pattern} stands for more than {_MOST} paths: use *, or a list of paths.")
    return done


def _regex(pattern: str) -> str:
    """Write a pattern without braces as a regular expression."""
    kinds = r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\])"
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(kinds, pattern)
    return "(?s:" + "".join(known.get(part) or _letters(part) for part in parts if part) + ")"


def _letters(part: str) -> str:
    if part[0] != "[" or part[-1] != "]":
        return re.escape(part)
    others = part.startswith("[!")
    pieces = re.findall(r"(?s)(.)-(.)|(.)", part[2 if others else 1 : -1])
    # A range whose end comes before its beginning holds nothing, as in the shell.
    inner = "".join(f"{re.escape(a)}-{re.escape(b)}" if a else re.escape(one) for a, b, one in pieces if a <= b)
    return f"[^/{inner}]" if others else f"[{inner}]" if inner else "(?!)"
