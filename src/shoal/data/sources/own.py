"""Sources of images of one's own: what ``SCHEME://...`` leads to, by a plugin."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from shoal.data.greys import Samples
from shoal.data.listing import Blob, Frame, Listing, Member, Remote, Source
from shoal.data.storage import is_known
from shoal.errors import UserError
from shoal.plugins import Registry, place_of


class ImageSource(ABC):
    """A place that images come from, which a spec of its scheme names: ``myscheme://...``."""

    scheme: ClassVar[str]

    @abstractmethod
    def listing(self, spec: str) -> Listing:
        """The images behind a spec, given whole: names, targets and the undecoded images.

        Raise a UserError (``shoal.UserError``) that says what is wrong with a spec that leads to none.
        """

    def version(self, spec: str) -> str:
        """Tells the images of now from those of another time, such as a date.

        Where the listing has files, their sizes and times do that. Otherwise all images are read each time, though not
        decoded, to see whether they are the same.
        """
        return ""


SOURCES = Registry[ImageSource](
    "source of images",
    ImageSource,  # type: ignore[type-abstract]
    "shoal.sources",
    lambda kind: getattr(kind, "scheme", None),
)
"""The class of each source of a plugin, by its scheme."""

_SCHEME = re.compile(r"([a-z][a-z0-9_]+)://")


def scheme_of(spec: str) -> str:
    """The scheme of a spec that a plugin must read, ``myscheme://...``; '' for others."""
    found = _SCHEME.match(spec)
    if found is None or os.path.lexists(spec):
        return ""
    return found[1] if found[1] in SOURCES or not is_known(found[1]) else ""


def own_source(spec: str) -> Source:
    """The images that a plugin finds.

    Raises:
        UserError: no plugin knows the scheme, or what it returns is not a listing.
    """
    scheme = scheme_of(spec)
    if scheme not in SOURCES:
        raise UserError(f"shoal does not read {scheme}:// itself: give the plugin that does with --plugin FILE.")
    source = SOURCES[scheme]()
    listed = _checked(source, source.listing(spec))
    version, files = str(source.version(spec)), [Path(file).absolute() for file in listed.files]
    return Source((spec, version), files, lambda: listed, stable=bool(version or files), version=version)


def _checked(source: ImageSource, found: object) -> Listing:
    """A listing whose images are checked as they are read.

    Raises:
        UserError: it is not a listing of images.
    """
    where = f"{place_of(type(source))}: the source {source.scheme!r}"
    if not isinstance(found, Listing):
        raise UserError(f"{where} returns a {type(found).__name__}: listing must return a shoal.data.Listing.")
    n = len(found.ids)
    if not n:
        raise UserError(f"{where} finds no images.")
    for name in ("targets", "held_out", "clustered", "files"):
        other = len(getattr(found, name))
        if other != n and (other or name == "targets"):
            raise UserError(f"{where} lists {n} ids and {other} {name}: the numbers must be equal.")
    if len(set(found.ids)) != n:
        raise UserError(f"{where} lists an id twice: each image needs its own.")
    for each in found.ids:
        if not isinstance(each, str) or not _is_text(each):
            raise UserError(f"{where} lists the id {each!r}: ids must be text.")
    targets, k = np.asarray(found.targets), len(found.classes)
    if targets.dtype.kind not in "iu" or not -1 <= targets.min() <= targets.max() < max(k, 1):
        raise UserError(f"{where} lists targets that are neither numbers of its {k} classes nor -1 for none.")
    seek, select = found.seek, found.select
    return replace(
        found,
        blobs=lambda: _exactly(found.blobs(), n, where),
        seek=None if seek is None else lambda start: _exactly(seek(start), n - start, where),
        select=None if select is None else lambda rows: _exactly(select(rows), len(rows), where),
    )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")  # as bytes are that a name of a file has instead of letters
    except UnicodeEncodeError:
        return False
    return True


def _exactly(blobs: Iterator[Blob], n: int, where: str) -> Iterator[Blob]:
    """So many images, each of which is one.

    Raises:
        UserError: there are more or fewer, or one is none.
    """
    number = 0
    for number, blob in enumerate(blobs, 1):
        if number > n:
            break
        if not _is_image(blob):
            kind = f"a {type(blob).__name__}"
            if isinstance(blob, np.ndarray):
                kind = f"an array {blob.shape} of {blob.dtype}"
            raise UserError(
                f"{where} gives {kind} as an image: it must be bytes, a Path, or a NumPy array (3, h, w) of uint8."
            )
        yield blob
    if number != n:
        count = f"more than {n}" if number > n else str(number)
        raise UserError(f"{where} iterates over {count} images where it lists {n}: the numbers must be equal.")


def _is_image(blob: object) -> bool:
    if isinstance(blob, np.ndarray):
        return blob.dtype == np.uint8 and blob.ndim == 3 and len(blob) == 3
    return isinstance(blob, bytes | Path | Member | Remote | Frame | Samples | None)
