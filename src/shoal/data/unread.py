"""What to say of the images of a source that were not read, or not in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import NoReturn

from shoal.data.decode import NO_IMAGE, UnreadableError
from shoal.data.greys import CLIPPED
from shoal.data.kinds import AVIF, damaged, kind_of_name, kind_of_reason, refused_kind
from shoal.data.listing import Listing, Member
from shoal.errors import UserError
from shoal.progress import counted
from shoal.types import Others

_SHOWN = 5  # skipped files that a warning names


def unreadable(reason: str | OSError) -> Member:
    """Stands for an image that cannot be read."""

    def refuse() -> NoReturn:
        raise reason if isinstance(reason, OSError) else UnreadableError(reason)

    return Member(refuse)


def reason_of(listing: Listing, row: int, reason: str) -> str:
    """Say of what has the name of a kind that is not read everywhere that its content is of no kind.

    In archives and tables, where the content alone is looked at, the words are those for a file in a folder.
    """
    if reason != NO_IMAGE:
        return reason
    kind = kind_of_name(str(listing.path(row) or listing.ids[row]))
    if kind is None or not (kind.package or kind is AVIF):
        return reason
    return damaged(kind, "no image") if kind.is_read else kind.refusal


def refuse_skipped(skipped: Mapping[str, str]) -> None:
    """Fail with the first skipped image.

    Raises:
        UserError: an image was skipped.
    """
    for name, reason in skipped.items():
        raise UserError(f"cannot read the image {name} ({reason}): repair or remove it, or omit --strict to skip it.")


def reading_notes(skipped: Mapping[str, str], notes: Mapping[str, str], n_read: int) -> list[str]:
    """What to say of images that were skipped, and of those that were read in part."""
    clipped = {name: note for name, note in notes.items() if note.startswith(CLIPPED)}
    parts = {name: note for name, note in notes.items() if name not in clipped}
    return [
        *([skip_note(skipped, n_read)] if skipped else []),
        *([part_note(parts)] if parts else []),
        *([_clip_note(clipped)] if clipped else []),
    ]


def skip_note(skipped: Mapping[str, str], n_read: int) -> str:
    """Say how many images were skipped: those of kinds that are not read by kind, of others the first by name."""
    refused = Counter(reason for reason in skipped.values() if refused_kind(reason) is not None)
    many = {reason: n for reason, n in refused.most_common() if n > 1}
    kinds = [f"{n} {reason}" for reason, n in many.items()]
    single = [(name, reason) for name, reason in skipped.items() if reason not in many]
    # Like repr without its quotes: a line break in a name does not break the line.
    named = [f"{repr(name)[1:-1]} ({reason})" for name, reason in single[:_SHOWN]]
    more = ", …" if len(single) > _SHOWN else ""
    some = ", ".join([*kinds, *named])
    were = "was" if len(skipped) == 1 else "were"
    of = counted(n_read + len(skipped), "image")
    return f"{len(skipped)} of {of} could not be read and {were} skipped: {some}{more}"


def count_kinds(skipped: Mapping[str, str], others: Others) -> dict[str, int]:
    """Count by their kinds the files of a source that were not read."""
    counts = Counter(kind_of_reason(reason).name for reason in skipped.values())
    return dict(counts + Counter(others.counts))


def part_note(notes: Mapping[str, str]) -> str:
    """Say how many images were read in part, and name the first of them."""
    some = ", ".join(f"{repr(name)[1:-1]} ({note})" for name, note in islice(notes.items(), _SHOWN))
    more = ", …" if len(notes) > _SHOWN else ""
    return f"{len(notes)} {'image lacks' if len(notes) == 1 else 'images lack'} a part: {some}{more}"


def _clip_note(notes: Mapping[str, str]) -> str:
    """Say how many images have values that are not told apart, and what to do."""
    name, note = next(iter(notes.items()))
    many = counted(len(notes), "image is", "images are")
    return (
        f"{many} brighter or darker than the range that was measured, and clipped, such as {repr(name)[1:-1]} "
        f"({note.removeprefix(f'{CLIPPED}: ')}): to tell their values apart, embed all images again, into another "
        "folder, with a --data.range LOW HIGH that holds them"
    )


def nothing_readable(skipped: Mapping[str, str]) -> str:
    """Say why no image could be read."""
    if not skipped:
        return "these files contain no images: they have no rows."
    name, reason = next(iter(skipped.items()))
    if len(skipped) == 1:
        return f"the image {name} could not be read: {reason}."
    return f"none of the {len(skipped)} images could be read; the first, {name}: {reason}."
