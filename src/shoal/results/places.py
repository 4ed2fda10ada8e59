"""Where the images of a result are: its own source, and others that have joined it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from shoal.data import Source, find_source, resolve_spec
from shoal.data.sources.find import STDIN, short_name
from shoal.data.sources.joined import files_source, joined_source
from shoal.data.urls import is_url, is_within, public
from shoal.errors import UserError
from shoal.features.matching import match
from shoal.files import is_folder
from shoal.results.result import Result

_MERGED = 0.9  # share of the images of a source that are elsewhere by now, from which on it was merged


@dataclass(frozen=True)
class Places:
    """What ``Result.source``, ``root`` and ``joined`` are to be."""

    source: str | list[str]
    root: str
    joined: tuple[tuple[str, str], ...]

    def as_json(self) -> str:
        """As text, for other processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Places:
        """What ``as_json`` gave."""
        values = json.loads(text)
        return cls(values["source"], values["root"], tuple((name, each) for name, each in values["joined"]))

    def images(self, result: Result) -> Source:
        """The images there.

        Raises:
            UserError: there are none.
        """
        if isinstance(self.source, list):
            assert result.embedded is not None
            names = defaultdict[str, deque[str]](deque)
            for file, name in zip(result.source, result.embedded.listed, strict=False):  # behind: those that joined
                names[file].append(name)
            known = [names[file].popleft() for file in self.source]
            return joined_source(files_source(self.source, known, result.every), self.joined, result.every)
        found = find_source(self.source, root=self.root, every=result.every)
        return joined_source(found, self.joined, result.every)


def places_of(result: Result, given: str | None) -> Places:
    """Take a source into account that is given for an update.

    While the images of the result are where they were, it joins them. Where they are gone it is their new place, and so
    is a folder that holds their folder; the same goes for those of a source that has joined. One that is looked at
    already, or lies in one, changes nothing.

    Raises:
        UserError: there are no images, or the result's are gone and none is there either.
    """
    source = result.source
    if isinstance(source, list):
        source = [file for file in source if is_url(file) or Path(file).exists()]
    same = Places(source, result.root, result.joined)
    if given is None:
        return same
    if given == STDIN:
        raise UserError("an update looks at its sources again later, which standard input cannot do: give a folder.")
    spec = resolve_spec(given)
    own = [result.source] if isinstance(result.source, str) else []
    if any(_lies_in(spec, known) for known in (*own, *(each for _, each in result.joined))):
        return _without_merged(result, same)
    moved = Places(spec, "", tuple((name, each) for name, each in result.joined if not _lies_in(each, spec)))
    if any(_lies_in(known, spec) for known in own):
        return moved
    images = find_source(spec, every=result.every)
    images.listing()
    assert result.embedded is not None
    lost = _lost(result)
    if lost and _found(lambda: result.first_images):
        return _moved_joined(result, same, lost, spec)
    if _any_left(result):
        joined = tuple(each for each in result.joined if not _lies_in(each[1], spec))
        return Places(source, result.root, (*joined, (_folder_name(result.ids, spec), spec)))
    found = match(result.embedded, images, result.prepare).there
    if not len(found):
        raise UserError(
            f"the images of {result.folder.path} are gone from {_shown(result.source)}, and none of them is in "
            f"{public(given)}: bring them back, or give the folder they are in now."
        )
    here = {result.ids[i].partition("/")[0] for i in found.tolist()}
    return replace(moved, joined=tuple(each for each in moved.joined if each[0] not in lost or each[0] not in here))


def _without_merged(result: Result, known: Places) -> Places:
    """``known`` without a source that had joined and is gone, if nearly all of its images are in the others by now.

    Fewer may be copies of what is on a drive that is away.
    """
    assert result.embedded is not None
    lost = _lost(result)
    rest = replace(known, joined=tuple(each for each in known.joined if each[0] not in lost))
    images = _found(lambda: rest.images(result)) if lost else None
    if images is None:
        return known
    found = match(result.embedded, images, result.prepare).there
    here = Counter(result.ids[i].partition("/")[0] for i in found.tolist())
    all_of = Counter(name.partition("/")[0] for name in result.ids)
    merged = {name for name in lost if here[name] >= _MERGED * all_of[name]}
    return replace(known, joined=tuple(each for each in known.joined if each[0] not in merged))


def _moved_joined(result: Result, known: Places, lost: Sequence[str], spec: str) -> Places:
    """``known`` with the new place of a source that had joined and is not where it was, if its images are there."""
    assert result.embedded is not None
    for name in lost:
        images = replace(known, joined=((name, spec),)).images(result)
        found = match(result.embedded, images, result.prepare).there
        if any(result.ids[i].startswith(f"{name}/") for i in found.tolist()):
            return replace(known, joined=tuple((each, spec if each == name else at) for each, at in known.joined))
    return known  # whose images cannot be reached, as is reported when they are asked for


def _lost(result: Result) -> list[str]:
    """The sources that have joined and are not where they were."""
    return [name for name, spec in result.joined if not _found(partial(find_source, spec, every=result.every))]


def _found(find: Callable[[], Source]) -> Source | None:
    try:
        return find()
    except UserError:
        return None


def _any_left(result: Result) -> bool:
    try:
        return len(result.present) > 0
    except UserError:
        return False


def _lies_in(inner: str, outer: str) -> bool:
    if is_url(inner) and is_url(outer):
        return is_within(inner, outer)
    return inner == outer or (is_folder(outer) and Path(outer) in Path(inner).parents)


def _folder_name(ids: Sequence[str], spec: str) -> str:
    """A folder for the names of images that join, which no name begins with."""
    taken = {name.partition("/")[0] for name in ids}
    wanted = short_name(spec)
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def _shown(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "their places"
