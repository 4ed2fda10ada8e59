"""Where the images of a folder of features are now: those that are unchanged, renamed, changed or gone."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal import job
from shoal.data.decode import UnreadableError
from shoal.data.file_stats import NO_STAT, has_stats, stats_in
from shoal.data.greys import Samples
from shoal.data.listing import Blob, Listing, Names, Pixels, Source, source_digest
from shoal.data.reading import Content, map_rows, read_blob
from shoal.features.embedded import Embedded
from shoal.mapped import scratch

Prepare = Callable[[bytes | Pixels | Samples], Pixels]
"""Makes pixels of an image; raises ``UnreadableError``."""


@dataclass(frozen=True, eq=False)
class Matched:
    """Where each of the n images of a folder of features is in a listing.

    ``rows`` are those of the listing, −1 for an image that is not there. ``stats`` are the files there, at present.
    ``renamed`` marks images that have another name now, recognised by their content; ``changed`` those whose name has
    another content now; ``gone`` those whose name leads to nothing.
    """

    rows: Int64[np.ndarray, "n"]
    stats: Int64[np.ndarray, "n 3"]
    renamed: Bool[np.ndarray, "n"]
    changed: Bool[np.ndarray, "n"]

    @property
    def there(self) -> Int64[np.ndarray, "m"]:
        """Images that were found."""
        found: Int64[np.ndarray, "m"] = np.flatnonzero(self.rows >= 0)
        return found

    @property
    def gone(self) -> Bool[np.ndarray, "n"]:
        """Images that were not found, and whose names lead to nothing."""
        nowhere: Bool[np.ndarray, "n"] = (self.rows < 0) & ~self.changed
        return nowhere


def match(embedded: Embedded, source: Source, prepare: Prepare | None = None) -> Matched:
    """Look for the images of a folder of features in a source.

    A file with the name, the size and the times that it had when it was read is the same. Any other is read, and the
    same if its content is: by its bytes, or, of a training run, by the pixels that ``prepare`` makes of it. So are
    images under new names, if as many have a content as are missing with it.

    Args:
        embedded: the features.
        source: where the images should be.
        prepare: needed where ``embedded.of_pixels``.
    """
    listing = source.listing()
    kept = embedded.rows.numpy()
    n, files = len(kept), has_stats(listing)
    rows, stats = (scratch((n, *shape), torch.int64).numpy() for shape in ((), (len(NO_STAT),)))
    stats[:] = NO_STAT
    nothing = np.zeros(n, dtype=bool)
    known = embedded.stats if files else None
    if known is None and embedded.images == source_digest(source, listing):
        rows[:] = kept
        return Matched(rows, stats_in(listing, kept) if files else stats, nothing, nothing)
    rows[:] = _by_name(embedded.ids, kept, listing.ids)
    if files:
        stats[rows >= 0] = stats_in(listing, rows[rows >= 0])
        rows[_all_equal(stats, np.array([NO_STAT]))] = -1  # named in a table, and not there
    same = nothing if known is None else (rows >= 0) & _all_equal(stats, known.numpy())
    return _by_content(embedded, listing, rows, stats, same, prepare)


def match_once(embedded: Embedded, source: Source, prepare: Prepare | None = None) -> Matched:
    """``match`` by the first process of a job, for all."""

    def found() -> list[Tensor]:
        one = match(embedded, source, prepare)
        return [torch.from_numpy(each) for each in (one.rows, one.stats, one.renamed, one.changed)]

    rows, stats, renamed, changed = (each.numpy() for each in job.tensors_of_first(found))
    return Matched(rows, stats, renamed, changed)


def _by_content(
    embedded: Embedded,
    listing: Listing,
    rows: Int64[np.ndarray, "n"],
    stats: Int64[np.ndarray, "n 3"],
    same: Bool[np.ndarray, "n"],
    prepare: Prepare | None,
) -> Matched:
    """Read the images that are not known to be the same, and those that no image is named after."""
    fingerprints = embedded.fingerprints.numpy()
    doubtful = np.flatnonzero((rows >= 0) & ~same)
    found = dict(contents(listing, np.unique(rows[doubtful]), prepare))
    changed = np.zeros(len(rows), dtype=bool)
    changed[doubtful] = [found[int(rows[i])] != bytes(fingerprints[i]) for i in doubtful]
    missing = np.flatnonzero((rows < 0) | changed)
    strange = np.ones(len(listing.ids), dtype=bool)
    strange[rows[rows >= 0]] = False
    others = np.flatnonzero(strange) if len(missing) else np.zeros(0, np.int64)
    other_stats = stats_in(listing, others) if has_stats(listing) else np.full((len(others), 3), NO_STAT, np.int64)
    if has_stats(listing):
        worth = ~_all_equal(other_stats, np.array([NO_STAT]))
        if embedded.stats is not None and not embedded.of_pixels:  # of another size it is another file
            worth &= np.isin(other_stats[:, 0], embedded.stats.numpy()[missing, 0])
        others, other_stats = others[worth], other_stats[worth]
    under_others = {int(rows[i]): stats[i].copy() for i in np.flatnonzero(changed)}  # files may have swapped names
    under_others |= dict(zip(others.tolist(), other_stats, strict=True))
    found |= dict(contents(listing, others, prepare))
    rows[changed] = -1
    renamed = np.zeros(len(rows), dtype=bool)
    for i, row in _paired(missing.tolist(), fingerprints, sorted(under_others), found):
        rows[i], stats[i], renamed[i] = row, under_others[row], True
    return Matched(rows, stats, renamed, changed & ~renamed)


def _paired(
    missing: Sequence[int], fingerprints: UInt8[np.ndarray, "n 16"], others: Sequence[int], found: dict[int, bytes]
) -> Iterator[tuple[int, int]]:
    """Images and where their content is now, in order: equal ones may be confused, others not."""
    wanted: dict[bytes, list[int]] = defaultdict(list)
    offered: dict[bytes, list[int]] = defaultdict(list)
    for i in missing:
        wanted[bytes(fingerprints[i])].append(i)
    for row in others:
        offered[found[row]].append(row)
    for content, images in wanted.items():
        if len(images) == len(offered.get(content, ())):
            yield from zip(images, offered[content], strict=True)


def _by_name(names: Sequence[str], kept: Int64[np.ndarray, "n"], now: Sequence[str]) -> Int64[np.ndarray, "n"]:
    """Where each name is now; −1: nowhere. Mostly that is where it was."""
    if not len(kept) or (len(now) > kept[-1] and names == _taken(now, kept)):
        return kept
    places = {name: row for row, name in enumerate(now)}
    return np.fromiter((places.get(name, -1) for name in names), np.int64, len(names))


def _taken(names: Sequence[str], rows: Int64[np.ndarray, "m"]) -> Sequence[str]:
    if isinstance(names, Names):
        return names if len(rows) == len(names) else names.take(rows)
    return [names[row] for row in rows.tolist()]


def _all_equal(one: Int64[np.ndarray, "n 3"], other: Int64[np.ndarray, "_ 3"]) -> Bool[np.ndarray, "n"]:
    """Which rows are equal."""
    found: Bool[np.ndarray, "n"] = one[:, 0] == other[:, 0]
    for column in range(1, one.shape[1]):
        found &= one[:, column] == other[:, column]
    return found


def contents(listing: Listing, rows: Int64[np.ndarray, "m"], prepare: Prepare | None) -> Iterator[tuple[int, bytes]]:
    """Row and fingerprint of some images, in ascending order."""
    wanted = rows.tolist()
    with contextlib.closing(map_rows(partial(_content, prepare), listing, wanted)) as contents:
        yield from zip(wanted, contents, strict=True)


def _content(prepare: Prepare | None, blob: Blob) -> bytes:
    return fingerprint_of(*read_blob(blob), prepare)


def fingerprint_of(data: Content, content: bytes, prepare: Prepare | None) -> bytes:
    """The fingerprint by which an image is known: of its content, or of the pixels that ``prepare`` makes of it."""
    if prepare is None or isinstance(data, str):
        return content
    try:
        return pixel_fingerprint(prepare(data))
    except UnreadableError:
        return content


def pixel_fingerprint(pixels: Pixels) -> bytes:
    """16 bytes that are equal for equal pixels."""
    return blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def known_rows(matched: Matched, n: int) -> Int64[np.ndarray, "n"]:
    """For each of the n rows of the listing the image that is there; −1: none, it is new or changed."""
    known = np.full(n, -1, np.int64)
    known[matched.rows[matched.there]] = matched.there
    return known
