"""Image files in folders, in lists, and matched by patterns; a million take little more memory than their names."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import chain
from pathlib import Path

from shoal.data.kinds import CLOSED_FOLDER, HIDDEN, HIDDEN_FOLDER, OUTPUT, PASSED_FOLDERS, VIDEO, kind_named
from shoal.data.listing import Files, Listing, Names, Source, distinct
from shoal.data.sources.labels import no_classes, subfolder_classes
from shoal.data.sources.others import Collector, in_words
from shoal.data.sources.stored import has_urls, listed_source
from shoal.data.urls import is_url
from shoal.errors import UserError
from shoal.files import expand_home, is_folder
from shoal.types import Others

_LOG = logging.getLogger("shoal")


def folder_source(folder: Path, names: Sequence[str], others: Others | None = None) -> Source:
    """Read image files in a folder, named by their paths in it; subfolders may be classes (``subfolder_classes``).

    Raises:
        UserError: ``names`` is empty.
    """
    others = others or Others()
    check_any(folder, names, others)
    root = folder.absolute()
    files = Files(names, os.path.join(root, "").__add__)  # noqa: PTH118 - a Path for each of a million is slow

    def listing() -> Listing:
        targets, classes = subfolder_classes(names)
        return Listing(names, targets, classes, lambda: iter(files), files=files, others=others)

    return Source(("folder", str(root)), files, listing, others=others)


def check_any(folder: object, names: Sequence[str], others: Others) -> None:
    """Refuse a folder without image files.

    Raises:
        UserError: ``names`` is empty.
    """
    if not names:
        looked = f"only {in_words(others.counts)}" if others else "it is empty"
        hint = "; --every 2s takes frames of videos" if others.counts.get(VIDEO.name) else ""
        raise UserError(f"there are no image files in {folder}, nor Parquet files or archives of them: {looked}{hint}.")


def list_source(paths: Sequence[str | Path]) -> Source:
    """Read the image files of a list, in its order and named as in the list.

    Raises:
        UserError: the list is empty, or one of its files is missing.
    """
    if not paths:
        raise UserError("the list of images is empty: give at least one path.")
    here = Path.cwd()

    def locate(name: str) -> str:
        return name if is_url(name) else str(here / expand_home(name))

    def existing() -> Iterator[str]:
        for name in map(str, paths):
            file = locate(name)
            if is_url(name):
                yield name
                continue
            # The methods of Path raise for names that are too long.
            if not os.path.isfile(file):  # noqa: PTH113
                what = f"{name} is a folder" if is_folder(file) else f"there is no file {name}"
                raise UserError(f"{what}: correct or remove it in the list of images.")
            yield name

    names = Names(existing())
    files, ids = Files(names, locate), distinct(names)
    if has_urls(names):
        return listed_source(names, files)
    listing = Listing(ids, no_classes(len(ids)), (), lambda: iter(files), files=files)
    return Source(Names(chain(["list"], ids)), files, lambda: listing)


# Walking a folder


def walk(
    folder: Path,
    max_depth: int | None = None,
    *,
    passed: Collector | None = None,
    asked: Container[str] = (),
) -> Iterator[str]:
    """Find the files under a folder: sorted, as paths relative to it with '/' between the parts.

    Links are followed, but each real folder is entered once, so that loops end. Left out are hidden files, files of
    more than ``max_depth`` parts, subfolders that shoal has written or that a system fills with thumbnails or with what
    was deleted (``PASSED_FOLDERS``; not those ``asked`` for by name), and, with a warning, subfolders without
    permission. ``passed`` counts all but files that are too deep.

    Raises:
        UserError: a folder cannot be listed.
    """
    passed = passed or Collector()
    entered: set[tuple[int, int]] = set()
    iterators = [iter(_entries(folder, entered, passed))]
    prefixes = [""]
    while iterators:
        entry = next(iterators[-1], None)
        if entry is None:
            iterators.pop()
            prefixes.pop()
        elif not entry.endswith("/"):
            yield prefixes[-1] + entry
        elif entry[:-1].lower() in PASSED_FOLDERS and entry[:-1] not in asked:
            passed.add(kind_named(entry[:-1]))
        elif max_depth is None or len(iterators) < max_depth:
            prefixes.append(prefixes[-1] + entry)
            iterators.append(iter(_subfolder_entries(folder / prefixes[-1], entered, passed)))


def _subfolder_entries(folder: Path, entered: set[tuple[int, int]], passed: Collector) -> list[str]:
    hidden = Collector()
    try:
        found = _entries(folder, entered, hidden)
    except UserError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        _LOG.warning("%s Its contents are skipped.", error)
        passed.add(CLOSED_FOLDER)
        return []
    if _is_output(folder, found):
        passed.add(OUTPUT)
        return []
    passed.update(hidden)
    return found


def _is_output(folder: Path, entries: Sequence[str]) -> bool:
    """Tell the folder of a run, or of clusters, finished or not: its tables and pictures are not images to cluster."""
    if "features/" in entries and (folder / "features" / "header.json").is_file():
        return True
    return "clustering.safetensors" in entries or {"config.yaml", "state.safetensors"} <= set(entries)


def _entries(folder: Path, entered: set[tuple[int, int]], passed: Collector) -> list[str]:
    """List a folder unless it was ``entered`` before; names of folders end in '/', and hidden entries are counted.

    The '/' makes the order of the entries that of the full paths below them, so sorting folder by folder is enough.
    """
    try:
        found = folder.stat()
        if (found.st_dev, found.st_ino) in entered:
            return []
        entered.add((found.st_dev, found.st_ino))
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    names.append(f"{entry.name}/" if _is_folder(entry) else entry.name)
                elif entry.name.lower() in PASSED_FOLDERS:
                    passed.add(kind_named(entry.name))
                else:
                    passed.add(HIDDEN_FOLDER if _is_folder(entry) else HIDDEN)
        return sorted(names)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}.") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


# Patterns

_MAGIC = re.compile(r"[*?\[{]")
_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_EXPANDED = 1_000_000  # paths per pattern


def is_pattern(spec: str) -> bool:
    """Tell whether a path has wildcards or braces."""
    return _MAGIC.search(spec) is not None


def pattern_root(pattern: str) -> Path:
    """Return the folder that a pattern starts in: its parts before the first wildcard or brace."""
    return expand_home(_split(pattern)[0] or ".")


def match_files(pattern: str, passed: Collector | None = None) -> Iterator[str]:
    """Find the files that match a pattern: sorted, relative to its ``pattern_root``; ``passed`` as in ``walk``.

    ``*``, ``?`` and ``[a-c]`` match within one part of a path, ``**`` any number of folders; ``{a,b}`` and ``{00..99}``
    are expanded. Hidden files are left out.

    Raises:
        UserError: a folder cannot be listed, or the braces expand to too many paths.
    """
    _, rest = _split(pattern)
    max_depth = None if "**" in rest else rest.count("/") + 1
    found = walk(pattern_root(pattern), max_depth, passed=passed, asked=rest.split("/"))
    return filter(matcher(pattern), found)


def matcher(pattern: str) -> Callable[[str], object]:
    """Tell whether a path, relative to the root of a pattern, matches it.

    Raises:
        UserError: the braces expand to too many paths.
    """
    return re.compile("|".join(map(_regex, _expand(_split(pattern)[1], pattern)))).fullmatch


def root_of(pattern: str) -> str:
    """What a pattern begins with before its first wildcard or brace: '', or it ends in '/'."""
    return _split(pattern)[0]


def first_missing(pattern: str, found: set[str]) -> str | None:
    """Return the first path without wildcards that braces expand to and that is not in ``found``."""
    _, rest = _split(pattern)
    return next((name for name in _expand(rest, pattern) if not is_pattern(name) and name not in found), None)


def _split(pattern: str) -> tuple[str, str]:
    """Split a pattern into its root, which ends in '/' or is empty, and the rest.

    The root has no wildcards, but folders that exist are none: ``photos [2024]/*.jpg`` begins in ``photos [2024]``.
    """
    magic = _MAGIC.search(pattern)
    at = pattern.rfind("/", 0, magic.start() if magic else None) + 1
    while (end := pattern.find("/", at) + 1) and is_folder(expand_home(pattern[:end])):
        at = end
    return pattern[:at], pattern[at:]


def _expand(text: str, pattern: str) -> list[str]:
    """Expand the braces in ``text``, a part of ``pattern``."""
    done, pending = [], [text]
    while pending:
        current = pending.pop()
        brace = _BRACE.search(current)
        if brace is None:
            done.append(current)
            continue
        options = brace[1].split(",")
        if span := _RANGE.fullmatch(brace[1]):
            first, last = int(span[1]), min(int(span[2]), int(span[1]) + _MAX_EXPANDED)  # one more than is allowed
            options = [str(number).zfill(len(span[1])) for number in range(first, last + 1)]
        if len(options) + len(pending) + len(done) > _MAX_EXPANDED:
            raise UserError(f"{pattern} expands to more than {_MAX_EXPANDED} paths: use *, or a list of paths.")
        pending += [current[: brace.start()] + option + current[brace.end() :] for option in reversed(options)]
    return done


def _regex(pattern: str) -> str:
    """Translate a pattern without braces to a regular expression."""
    kinds = r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\])"
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(kinds, pattern)
    return "(?s:" + "".join(known.get(part) or _literal_or_set(part) for part in parts if part) + ")"


def _literal_or_set(part: str) -> str:
    if part[0] != "[" or part[-1] != "]":
        return re.escape(part)
    negated = part.startswith("[!")
    pieces = re.findall(r"(?s)(.)-(.)|(.)", part[2 if negated else 1 : -1])
    # A range that ends before it starts is empty, as in the shell.
    inner = "".join(f"{re.escape(a)}-{re.escape(b)}" if a else re.escape(one) for a, b, one in pieces if a <= b)
    return f"[^/{inner}]" if negated else f"[{inner}]" if inner else "(?!)"
