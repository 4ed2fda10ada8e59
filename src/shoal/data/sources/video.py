"""Frames of the videos among the files of a source, in the place of the videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from shoal.data.kinds import HEAD, VIDEO, kind_named, kind_of_content, kind_of_name
from shoal.data.listing import Blob, Files, Listing, Names, Source, distinct
from shoal.data.sources.others import head_of
from shoal.data.video.every import check_every, frame_name, parse_every, time_in_name
from shoal.data.video.frames import frames_of, unreadable
from shoal.data.video.timeline import Timeline, timeline_of
from shoal.errors import UserError
from shoal.progress import ProgressCallback
from shoal.types import Others

_MEGABYTE = 2**20
_SOUND = "sound"


def framed_source(source: Source, every: str, progress: ProgressCallback | None = None) -> Source:
    """A source in which each video among the files is replaced by frames of it, named ``clip.mp4#t=12.0``.

    What has only sound is counted among the others. A video that is damaged is listed behind the frames before the
    damage, as an image that cannot be read.

    Args:
        source: with videos among its files, as it is listed where ``every`` is asked for.
        every: how often a frame is taken (``parse_every``).
        progress: told how many megabytes of the videos have been gone through, of how many.

    Raises:
        UserError: ``every`` is no interval, or PyAV is not installed.
    """
    check_every(every)
    if not len(source.files):
        return source

    def listing() -> Listing:
        found = source.listing()
        return _Framed(found, every, progress).listing() if isinstance(found.files, Files) else found

    return replace(source, origin=Names(chain(source.origin, ["every", every])), listing=listing, others=None)


def check_has_videos(source: Source, every: str, where: str) -> None:
    """Raise a UserError where frames of videos are asked for and there are no videos."""
    if every and not len(source.listing().times):
        raise UserError(f"--every {every} takes frames of videos, and there are none in {where}: leave it out.")


def is_video(path: str) -> bool:
    """Tell a video by its suffix, or by its first bytes where the suffix says nothing."""
    kind = kind_of_name(path)
    if kind is None:
        head = head_of(Path(path))
        kind = kind_of_content(head[:HEAD]) if isinstance(head, bytes) else None
    return kind is VIDEO


class _Framed:
    """A listing whose videos are gone through."""

    def __init__(self, listing: Listing, every: str, progress: ProgressCallback | None) -> None:
        assert isinstance(listing.files, Files)
        self._listing = listing
        self._files = listing.files
        self._timelines = self._found(every, progress)

    def _found(self, every: str, progress: ProgressCallback | None) -> dict[int, Timeline]:
        interval = parse_every(every)
        videos = {row: path for row, path in enumerate(self._files.texts()) if is_video(path)}
        sizes = {row: _size(path) for row, path in videos.items()}
        total, before, found = sum(sizes.values()) // _MEGABYTE, 0, {}

        def told(position: int) -> None:
            if progress is not None:
                progress(min((before + position) // _MEGABYTE, total), total)

        for row, path in videos.items():
            found[row] = timeline_of(Path(path), interval, told)
            before += sizes[row]
        return found

    def listing(self) -> Listing:
        """Frames in the place of videos."""
        listing = self._listing
        if not self._timelines:
            return listing
        counts = np.ones(len(listing.ids), np.int64)
        for row, timeline in self._timelines.items():
            counts[row] = len(timeline.times) + bool(timeline.damage)
        if not counts.any():
            raise UserError("the videos hold only sound: there are no frames to take.")
        rows = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        places = _Places(rows, starts, self._timelines)
        sounds = sum(not timeline.has_pictures for timeline in self._timelines.values())
        files = self._files.take(rows)
        return replace(
            listing,
            ids=distinct(Names(places.names(listing.ids))),
            targets=np.asarray(listing.targets)[rows],
            files=files,
            times=places.times(),
            blobs=lambda: _select(files, places, range(len(rows))),
            select=partial(_select, files, places),
            others=_with_sounds(listing.others, sounds),
        )


@dataclass(frozen=True, eq=False)
class _Places:
    """Which row of the files each image is from, and the first image of each row."""

    rows: Int64[np.ndarray, "n"]
    starts: Int64[np.ndarray, "m"]
    timelines: dict[int, Timeline]

    def names(self, ids: Sequence[str]) -> Iterator[str]:
        """Names of images, frames, and damaged videos."""
        for row, name in enumerate(ids):
            timeline = self.timelines.get(row)
            if timeline is None:
                yield name
            else:
                yield from (frame_name(name, time) for time in timeline.times)
                if timeline.damage:
                    yield name

    def times(self) -> Int64[np.ndarray, "n"]:
        """Of frames; −1 for other images."""
        found = np.full(len(self.rows), -1)
        for row, timeline in self.timelines.items():
            start = self.starts[row]
            found[start : start + len(timeline.times)] = timeline.times
        return found


def _select(files: Files, places: _Places, wanted: Sequence[int]) -> Iterator[Blob]:
    """Iterate over images of some rows, which ascend: each video is opened once, and decoded forwards."""
    for row, group in groupby(wanted, key=lambda each: int(places.rows[each])):
        timeline, numbers = places.timelines.get(row), [int(each - places.starts[row]) for each in group]
        path = files[int(places.starts[row])]
        if timeline is None:
            yield path
            continue
        inside = [number for number in numbers if number < len(timeline.times)]
        yield from frames_of(path, timeline, inside)
        yield from (unreadable(timeline.damage) for _ in numbers[len(inside) :])


def _with_sounds(others: Others, n: int) -> Others:
    if not n:
        return others
    kind = kind_named(_SOUND)
    return Others({**others.counts, kind.name: others.counts.get(kind.name, 0) + n}, others.reasons)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0


def listed_frames(files: Files, names: Sequence[str], every: str) -> Listing:
    """Files as they were listed before, of which some are videos whose frames have their times in their names.

    Args:
        files: of each image; the video of a frame.
        names: of each image.
        every: how often frames were taken; "": there are none.
    """
    listing = Listing(names, np.full(len(names), -1), (), lambda: iter(files), files=files)
    times = np.array([time_in_name(name) if every else -1 for name in names], np.int64)
    if not (times >= 0).any():
        return listing
    check_every(every)
    interval = parse_every(every)
    timelines: dict[str, Timeline] = {}

    def one(path: str, row: int) -> tuple[Timeline, int]:
        if path not in timelines:
            timelines[path] = timeline_of(Path(path), interval)
        found = timelines[path].times
        return timelines[path], found.index(int(times[row])) if int(times[row]) in found else -1

    def select(wanted: Sequence[int]) -> Iterator[Blob]:
        for path, group in groupby(wanted, key=files.text):
            for is_frame, some in groupby(group, key=lambda each: bool(times[each] >= 0)):
                rows = [*some]
                yield from _of_one(path, rows, one) if is_frame else [Path(path)] * len(rows)

    return replace(listing, times=times, blobs=lambda: select(range(len(names))), select=select)


def _of_one(path: str, rows: Sequence[int], find: Callable[[str, int], tuple[Timeline, int]]) -> Iterator[Blob]:
    """Frames of one video; some may no longer be there."""
    places = [find(path, row) for row in rows]
    there = frames_of(Path(path), places[0][0], [number for _, number in places if number >= 0])
    for _, number in places:
        yield next(there) if number >= 0 else unreadable("the video has no frame at this time any more")
