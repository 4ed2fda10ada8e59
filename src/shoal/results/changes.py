"""What has become of the images of a result, in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from shoal.errors import UserError
from shoal.results.result import Result

_SHOWN = 3
"""Names in a line."""


def changes_of(result: Result) -> list[str]:
    """A line for each kind of change of the images since they were clustered, and one with what to do.

    Raises:
        UserError: there are no images any more.
    """
    matched, ids = result.matched, result.ids
    now = result.listing.ids
    lines = []
    if renamed := [f"{ids[i]} is now {now[matched.rows[i]]}" for i in np.flatnonzero(matched.renamed).tolist()]:
        lines.append(f"{_images(renamed, 'was', 'were')} renamed since: {_some(renamed)}.")
    if gone := [ids[i] for i in np.flatnonzero(matched.gone).tolist()]:
        lines.append(f"{_images(gone, 'is', 'are')} gone since the images were clustered: {_some(gone)}.")
    if changed := [ids[i] for i in np.flatnonzero(matched.changed).tolist()]:
        lines.append(
            f"{_images(changed, 'has', 'have')} changed or been replaced by another since the images were clustered: "
            f"{_some(changed)}."
        )
    return lines


def update_hint(result: Result) -> str:
    """How the changes are taken into the result."""
    return f"'shoal update {shlex.quote(str(result.folder.path))}' takes the changes into the result."


def none_left(result: Result) -> UserError:
    """What to say where none of the images is there any more."""
    where = result.source if isinstance(result.source, str) else "their places"
    return UserError(
        f"none of the {len(result.ids)} images that were clustered is in {where} any more: bring them back, or see "
        f"where they have gone and give that folder to 'shoal update {shlex.quote(str(result.folder.path))} FOLDER'."
    )


def _images(names: Sequence[str], one: str, many: str) -> str:
    return f"1 image {one}" if len(names) == 1 else f"{len(names)} images {many}"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(_plain(islice(names, _SHOWN))) + more


def _plain(names: Iterator[str]) -> Iterator[str]:
    """Like repr without its quotes: a line break in a name does not break the line."""
    return (repr(name)[1:-1] for name in names)
