"""Paths with wildcards and braces: ``photos/**/*.jpg``, ``shards/train-{0000..0099}.tar``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from shoal.data.folders import walk
from shoal.errors import UserError
from shoal.files import at_home

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
    return at_home(fixed[: fixed.rfind("/") + 1] or ".")


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
