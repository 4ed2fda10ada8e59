"""Several sources as one, and files that were listed before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, compress, groupby

import numpy as np

from shoal.data.file_stats import has_stats, stats_in
from shoal.data.listing import Blob, Files, Listing, Names, Source, distinct, others_of, texts_of
from shoal.data.reading import select
from shoal.data.sources.find import find_source
from shoal.data.sources.stored import has_urls, listed_source
from shoal.data.sources.video import listed_frames
from shoal.errors import UserError
from shoal.types import Others


def files_source(files: Sequence[str], names: Sequence[str], every: str = "") -> Source:
    """Files as they were listed, by their absolute paths; unlike those of a new list, some may be gone."""
    paths = Files(Names(files), str)
    if has_urls(files):
        return listed_source(Names(names), paths)
    each = Files(Names(dict.fromkeys(files)), str)
    return Source(("list", *files), each, lambda: listed_frames(paths, Names(names), every))


def places_in(source: Source) -> list[str]:
    """Where each image of a list is, as ``files_source`` takes it."""
    files = source.listing().files
    return [str(file) for file in files] if len(files) else [*source.places]


def joined_source(first: Source, others: Sequence[tuple[str, str]], every: str = "") -> Source:
    """A source and others that have joined it: their images are named with a folder before, and come behind.

    A file that is listed already, as by a table or a list of some files of a folder, is not listed again.

    Args:
        first: its images keep their names.
        others: the folder of the names of each, and its path.
        every: how often a frame of a video is taken; "" reads no videos.

    Raises:
        UserError: one of them cannot be reached: its images are not gone, it may be on a drive that is.
    """
    if not others:
        return first
    sources = [("", first)]
    for name, spec in others:
        try:
            sources.append((f"{name}/", find_source(spec, every=every)))
        except UserError as error:
            raise _away(f"of {name}/, which have joined,", str(error)) from error
    for name, source in sources:
        files = source.listing().files  # of a table or a list all may be gone
        if isinstance(files, Files) and not any(map(os.path.lexists, files.texts())):
            raise _away(f"of {name}, which have joined," if name else "to which others have joined", "none is there.")
    files = list(chain.from_iterable(source.files for _, source in sources))
    origin = tuple(chain(first.origin, *([name, *source.origin] for name, source in sources[1:])))
    version = " ".join(source.version for _, source in sources).strip()
    return Source(origin, files, lambda: _joined(sources), version=version)


def _away(which: str, why: str) -> UserError:
    return UserError(
        f"the images {which} cannot be reached: {why} Bring their folder or drive back, or give the folder they are in "
        "now to 'shoal update RESULT FOLDER'."
    )


def _joined(sources: Sequence[tuple[str, Source]]) -> Listing:
    parts = [(name, source.listing()) for name, source in sources]
    kept = _first_names(parts)
    classes = tuple(dict.fromkeys(each for _, listing in parts for each in listing.classes))
    numbers = {name: number for number, name in enumerate(classes)}

    def targets() -> Iterator[int]:
        for _, listing in parts:
            yield from (numbers[listing.classes[own]] if own >= 0 else -1 for own in map(int, listing.targets))

    def blobs() -> Iterator[Blob]:
        return compress(chain.from_iterable(listing.blobs() for _, listing in parts), kept)

    names = (f"{name}{each}" for name, listing in parts for each in listing.ids)
    ids = distinct(Names(compress(names, kept)))
    of_files = all(len(listing.files) for _, listing in parts)
    paths = chain.from_iterable(texts_of(listing.files) for _, listing in parts)
    files = Files(Names(compress(paths, kept)), str) if of_files else ()
    truth = np.fromiter(compress(targets(), kept), np.int64, len(ids))
    stats = None
    if not of_files and all(has_stats(listing) for _, listing in parts):
        stats = np.concatenate([stats_in(listing, range(len(listing.ids))) for _, listing in parts])[
            np.frombuffer(kept, np.uint8).astype(bool)
        ]
    found = Listing(ids, truth, classes, blobs, files=files, others=_all_others(sources), stats=stats)
    frames = any(len(listing.times) for _, listing in parts)
    return _with_frames(found, [listing for _, listing in parts], kept) if frames else found


def _with_frames(joined: Listing, parts: Sequence[Listing], kept: bytearray) -> Listing:
    """A joined listing that reads the frames of videos as its parts do."""
    times = [part.times if len(part.times) else np.full(len(part.ids), -1) for part in parts]
    places, starts = np.flatnonzero(kept), np.cumsum([0, *(len(part.ids) for part in parts)])

    def some(wanted: Sequence[int]) -> Iterator[Blob]:
        for part, rows in groupby(places[wanted].tolist(), key=lambda row: int(np.searchsorted(starts, row, "right"))):
            yield from select(parts[part - 1], [row - int(starts[part - 1]) for row in rows])

    return replace(joined, times=np.concatenate(times)[places], select=some)


def _first_names(parts: Sequence[tuple[str, Listing]]) -> bytearray:
    """For each image 1, or 0 where it joins although its file is listed before: by its own path or through links."""
    known = set[str]()
    kept = bytearray()
    resolve = _Resolver()
    for number, (_, listing) in enumerate(parts):
        real = [resolve(path) for path in texts_of(listing.files)]
        kept += bytes(number == 0 or path not in known for path in real) if real else b"\1" * len(listing.ids)
        known.update(real)
    return kept


class _Resolver:
    """``os.path.realpath``, which looks at each part of every path, for many files of few folders."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        folder, name = os.path.split(path)
        if os.path.islink(path) or name in ("", ".", ".."):  # noqa: PTH114 - a Path for each of a million is slow
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return os.path.join(self._folders[folder], name)  # noqa: PTH118 - as above


def _all_others(sources: Sequence[tuple[str, Source]]) -> Others:
    counts, reasons = Counter[str](), dict[str, str]()
    for name, source in sources:
        others = others_of(source)
        counts.update(others.counts)
        reasons |= {f"{name}{each}": reason for each, reason in others.reasons.items()}
    return Others(counts, reasons)
