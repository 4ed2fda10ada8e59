"""Frames of the videos among the files of a source, in the place of the videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64

from shoal.data.content import HEAD, kind_of_content
from shoal.data.file_stats import stat_file
from shoal.data.kinds import PACKED_VIDEO, VIDEO, Kind, kind_named, kind_of_name
from shoal.data.listing import Blob, Files, Listing, Names, Source, check_regular, distinct
from shoal.data.reading import select
from shoal.data.sources.labels import no_classes
from shoal.data.sources.others import head_of
from shoal.data.unread import unreadable
from shoal.data.urls import is_url
from shoal.data.video.clip import Clip
from shoal.data.video.every import check_every, frame_name, parse_every, time_in_name
from shoal.data.video.frames import frames_of
from shoal.data.video.timeline import Timeline, timeline_of
from shoal.errors import UserError
from shoal.progress import ProgressCallback
from shoal.types import Others

_MEGABYTE = 2**20
_SOUND = "sound"


def framed_source(source: Source, every: str, progress: ProgressCallback | None = None) -> Source:
    """A source in which each video is replaced by frames of it, named ``clip.mp4#t=12.0``.

    What has only sound is counted among the others. A video that is damaged is listed behind the frames before the
    damage, as an image that cannot be read.

    Args:
        source: with videos among its images, as it is listed where ``every`` is asked for.
        every: how often a frame is taken (``parse_every``).
        progress: reports how many megabytes of the videos have been scanned, of how many.

    Raises:
        UserError: ``every`` is not an interval, or PyAV is not installed.
    """
    check_every(every)
    if source.images is not None:
        return source

    def listing() -> Listing:
        found = source.listing()
        return _Framed(found, every, progress).listing()

    return replace(source, origin=Names(chain(source.origin, ["every", every])), listing=listing, others=None)


def check_has_videos(source: Source, every: str, where: str) -> None:
    """Raise a UserError where frames of videos are asked for and there are none that are read."""
    if not every:
        return
    listing = source.listing()
    if len(listing.times):
        return
    if listing.others.counts.get(PACKED_VIDEO.name):
        raise UserError(
            f"the videos in {where} are in a compressed tar, which cannot be read in place: {PACKED_VIDEO.remedy}."
        )
    if any(is_url(name) and kind_of_name(name) is VIDEO for name in listing.ids):
        raise UserError(f"videos are not read by addresses in a list or a table such as {where}: give their folder.")
    raise UserError(f"--every {every} takes frames of videos, and there are none in {where}: leave it out.")


def is_video(name: str, head: Callable[[], bytes | Kind]) -> bool:
    """Tell a video by its suffix, or by its first bytes where the suffix says nothing."""
    kind = kind_of_name(name)
    if kind is None:
        found = head()
        kind = kind_of_content(found[:HEAD]) if isinstance(found, bytes) else None
    return kind is VIDEO


def local_clip(path: str) -> Clip | None:
    """A file on this machine, if it is a video."""
    if not is_video(path, lambda: head_of(Path(path))):
        return None
    file = Path(path)

    def opened() -> IO[bytes]:
        check_regular(file)
        return file.open("rb")

    stat = partial(stat_file, path)
    return Clip(str(file.absolute()), stat, opened, stat()[0])


class _Framed:
    """A listing whose videos are gone through."""

    def __init__(self, listing: Listing, every: str, progress: ProgressCallback | None) -> None:
        self._listing = listing
        self._clips = dict(_clips_of(listing))
        self._timelines = self._found(every, progress)

    def _found(self, every: str, progress: ProgressCallback | None) -> dict[int, Timeline]:
        interval = parse_every(every)
        total = sum(max(0, clip.n_bytes) for clip in self._clips.values()) // _MEGABYTE
        before, found = 0, {}

        def told(position: int) -> None:
            if progress is not None:
                progress(min((before + position) // _MEGABYTE, total), total)

        for row, clip in self._clips.items():
            found[row] = timeline_of(clip, interval, told)
            before += max(0, clip.n_bytes)
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
        places = _Places(rows, np.cumsum(counts) - counts, self._timelines)
        sounds = sum(not timeline.has_pictures for timeline in self._timelines.values())
        wanted = partial(_select, listing, self._clips, places)
        return replace(
            listing,
            ids=distinct(Names(places.names(listing.ids))),
            targets=np.asarray(listing.targets)[rows],
            files=listing.files.take(rows) if isinstance(listing.files, Files) else (),
            stats=None if listing.stats is None else listing.stats[rows],
            times=places.times(),
            blobs=lambda: wanted(range(len(rows))),
            seek=None,
            select=wanted,
            clip=None,
            others=_with_sounds(listing.others, sounds),
        )


def _clips_of(listing: Listing) -> Iterator[tuple[int, Clip]]:
    """The videos of a listing, by their rows."""
    if listing.clip is not None:
        found = map(listing.clip, range(len(listing.ids)))
    else:
        found = map(local_clip, listing.files.texts() if isinstance(listing.files, Files) else ())
    return ((row, clip) for row, clip in enumerate(found) if clip is not None)


@dataclass(frozen=True, eq=False)
class _Places:
    """Which row of a listing each image is from, and the first image of each row."""

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


def _select(listing: Listing, clips: dict[int, Clip], places: _Places, wanted: Sequence[int]) -> Iterator[Blob]:
    """Iterate over images of some rows, which ascend: each video is opened once, and decoded forwards."""
    of_listing = places.rows[np.asarray(wanted, np.int64)].tolist()
    others = select(listing, [row for row in of_listing if row not in clips])
    for row, group in groupby(zip(of_listing, wanted, strict=True), key=lambda each: each[0]):
        numbers = [int(each - places.starts[row]) for _, each in group]
        if row not in clips:
            yield next(others)
            continue
        timeline = places.timelines[row]
        inside = [number for number in numbers if number < len(timeline.times)]
        yield from frames_of(clips[row], timeline, inside)
        yield from (unreadable(timeline.damage) for _ in numbers[len(inside) :])


def _with_sounds(others: Others, n: int) -> Others:
    if not n:
        return others
    kind = kind_named(_SOUND)
    return Others({**others.counts, kind.name: others.counts.get(kind.name, 0) + n}, others.reasons)


def listed_frames(files: Files, names: Sequence[str], every: str) -> Listing:
    """Files as they were listed before, of which some are videos whose frames have their times in their names.

    Args:
        files: of each image; the video of a frame.
        names: of each image.
        every: how often frames were taken; "": there are none.
    """
    listing = Listing(names, no_classes(len(names)), (), lambda: iter(files), files=files)
    times = np.array([time_in_name(name) if every else -1 for name in names], np.int64)
    clips = {path: local_clip(path) for path in {files.text(row) for row in np.flatnonzero(times >= 0).tolist()}}
    times[[clips.get(path, ...) is None for path in files.texts()]] = -1  # images whose names look like a frame's
    if not (times >= 0).any():
        return listing
    check_every(every)
    interval = parse_every(every)
    timelines: dict[str, Timeline] = {}

    def frames(path: str, rows: Sequence[int]) -> Iterator[Blob]:
        clip = clips[path]
        assert clip is not None
        if path not in timelines:
            timelines[path] = timeline_of(clip, interval)
        known = {time: number for number, time in enumerate(timelines[path].times)}
        places = [known.get(int(times[row])) for row in rows]
        there = frames_of(clip, timelines[path], [number for number in places if number is not None])
        for number in places:
            yield unreadable("the video has no frame at this time any more") if number is None else next(there)

    def chosen(wanted: Sequence[int]) -> Iterator[Blob]:
        for (path, is_frame), group in groupby(wanted, key=lambda row: (files.text(row), bool(times[row] >= 0))):
            rows = [*group]
            yield from frames(path, rows) if is_frame else [Path(path)] * len(rows)

    return replace(listing, times=times, blobs=lambda: chosen(range(len(names))), select=chosen)
