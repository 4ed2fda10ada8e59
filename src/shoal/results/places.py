"""Where the images of a result are: its own source, and others that have joined it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.data import Source, find_source, resolve_spec
from shoal.data.sources.find import STDIN
from shoal.data.sources.joined import files_source, joined_source
from shoal.errors import UserError
from shoal.features.matching import match
from shoal.results.result import Result


@dataclass(frozen=True)
class Places:
    """What ``Result.source``, ``root`` and ``joined`` are to be."""

    source: str | list[str]
    root: str
    joined: tuple[tuple[str, str], ...]

    def images(self, result: Result) -> Source:
        """The images there.

        Raises:
            UserError: there are none.
        """
        if isinstance(self.source, list):
            assert result.embedded is not None
            pairs = zip(result.embedded.rows.tolist(), result.ids, strict=True)
            names = {result.source[row]: name for row, name in pairs if row < len(result.source)}
            known = {row: names[file] for row, file in enumerate(self.source) if file in names}
            return joined_source(files_source(self.source, known), self.joined)
        return joined_source(find_source(self.source, root=self.root), self.joined)


def places_of(result: Result, given: str | None) -> Places:
    """Take a source into account that is given for an update.

    While the images of the result are where they were, it joins them. Where they are gone it is their new place, and so
    is a folder that holds their folder. One that is looked at already, or lies in one, changes nothing.

    Raises:
        UserError: there are no images, or the result's are gone and none is there either.
    """
    source = result.source
    if isinstance(source, list):
        source = [file for file in source if Path(file).exists()]
    same = Places(source, result.root, result.joined)
    if given is None:
        return same
    if given == STDIN:
        raise UserError("an update looks at its sources again later, which standard input cannot do: give a folder.")
    spec = resolve_spec(given)
    own = [result.source] if isinstance(result.source, str) else []
    if any(_lies_in(spec, known) for known in (*own, *(each for _, each in result.joined))):
        return same
    moved = Places(spec, "", tuple((name, each) for name, each in result.joined if not _lies_in(each, spec)))
    if any(_lies_in(known, spec) for known in own):
        return moved
    images = find_source(spec)
    images.listing()
    if _any_left(result):
        joined = tuple(each for each in result.joined if not _lies_in(each[1], spec))
        return Places(source, result.root, (*joined, (_folder_name(result.ids, spec), spec)))
    assert result.embedded is not None
    if not len(match(result.embedded, images, result.prepare).there):
        raise UserError(
            f"the images of {result.folder.path} are gone from {_shown(result.source)}, and none of them is in "
            f"{given}: bring them back, or give the folder they are in now."
        )
    return moved


def _any_left(result: Result) -> bool:
    try:
        return len(result.present) > 0
    except UserError:
        return False


def _lies_in(inner: str, outer: str) -> bool:
    return inner == outer or (Path(outer).is_dir() and Path(outer) in Path(inner).parents)


def _folder_name(ids: Sequence[str], spec: str) -> str:
    """A folder for the names of images that join, which no name begins with."""
    taken = {name.partition("/")[0] for name in ids}
    wanted = Path(spec).name or "joined"
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def _shown(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "their places"
