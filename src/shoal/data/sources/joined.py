"""Several sources as one, and files that were listed before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from shoal.data.listing import Blob, Files, Listing, Names, Source, distinct, others_of
from shoal.data.sources.find import find_source
from shoal.errors import UserError
from shoal.types import Others


def files_source(files: Sequence[str], ids: Mapping[int, str]) -> Source:
    """Files as they were listed; unlike those of a new list, some may be gone.

    Args:
        files: absolute paths.
        ids: names of some of them, by their number; the others are named by their paths.
    """
    names = [ids.get(row, file) for row, file in enumerate(files)]
    paths = Files(Names(files), str)
    listing = Listing(Names(names), np.full(len(names), -1), (), lambda: iter(paths), files=paths)
    return Source(("list", *files), paths, lambda: listing)


def joined_source(first: Source, others: Sequence[tuple[str, str]]) -> Source:
    """A source and others that have joined it: their images are named with a folder before, and come behind.

    One that is gone by now has no images.

    Args:
        first: its images keep their names.
        others: the folder of the names of each, and its path.
    """
    if not others:
        return first
    sources = [("", first)]
    for name, spec in others:
        try:
            sources.append((f"{name}/", find_source(spec)))
        except UserError:
            if os.path.lexists(spec):
                raise
    files = list(chain.from_iterable(source.files for _, source in sources))
    origin = tuple(chain(first.origin, *([name, *source.origin] for name, source in sources[1:])))
    return Source(origin, files, lambda: _joined(sources))


def _joined(sources: Sequence[tuple[str, Source]]) -> Listing:
    parts = [(name, source.listing()) for name, source in sources]
    classes = tuple(dict.fromkeys(each for _, listing in parts for each in listing.classes))
    numbers = {name: number for number, name in enumerate(classes)}

    def targets() -> Iterator[int]:
        for _, listing in parts:
            yield from (numbers[listing.classes[own]] if own >= 0 else -1 for own in map(int, listing.targets))

    def blobs() -> Iterator[Blob]:
        for _, listing in parts:
            yield from listing.blobs()

    ids = distinct(Names(f"{name}{each}" for name, listing in parts for each in listing.ids))
    of_files = all(len(listing.files) for _, listing in parts)
    files = Files(Names(str(file) for _, listing in parts for file in listing.files), str) if of_files else ()
    truth = np.fromiter(targets(), np.int64, len(ids))
    return Listing(ids, truth, classes, blobs, files=files, others=_all_others(sources))


def _all_others(sources: Sequence[tuple[str, Source]]) -> Others:
    counts, reasons = Counter[str](), dict[str, str]()
    for name, source in sources:
        others = others_of(source)
        counts.update(others.counts)
        reasons |= {f"{name}{each}": reason for each, reason in others.reasons.items()}
    return Others(counts, reasons)
