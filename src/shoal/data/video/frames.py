"""Frames of a video by their times: decoded forwards, past what is not needed where frames are far apart."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.data.decode import UnreadableError
from shoal.data.file_stats import FileStat
from shoal.data.kinds import VIDEO, damaged
from shoal.data.listing import Frame, Member
from shoal.data.unread import unreadable
from shoal.data.video.clip import Clip
from shoal.data.video.opening import Opened, opened
from shoal.data.video.pixels import Converter
from shoal.data.video.timeline import Timeline, microseconds, stamp_of

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

_THREADS = min(os.cpu_count() or 1, 8)  # each holds frames of its own
_WORTH = 24  # frames to pass over from which it pays to seek: behind a seek the decoder begins anew
_TRIES = 2  # earlier places to begin at, where the first does not lead to the frame
_LOST = damaged(VIDEO, "one whose frames are missing here")


def frames_of(clip: Clip, timeline: Timeline, numbers: Sequence[int]) -> Iterator[Frame | Member]:
    """Read some frames of a timeline, by their numbers, ascending; what fails stands for itself."""
    done = 0
    try:
        stat = clip.stat()
        with opened(clip) as video:
            if video.stream is None:
                raise UnreadableError(_LOST)
            reader = _Reader(video, timeline)
            make = Converter(video.stream.sample_aspect_ratio)
            for number in numbers:
                yield _blob(reader, make, number, stat)
                done += 1
    except UnreadableError as error:
        yield from (unreadable(str(error)) for _ in numbers[done:])
    except OSError as error:
        yield from (unreadable(error) for _ in numbers[done:])


def _blob(reader: _Reader, make: Converter, number: int, stat: FileStat) -> Frame | Member:
    frame = reader.frame(number)
    if frame is None:
        return unreadable(_LOST)
    n_bytes = frame.width * frame.height * frame.format.padded_bits_per_pixel // 8
    return Frame(partial(make, frame), n_bytes, stat)


class _Reader:
    """The frames of an open video, at times that ascend."""

    def __init__(self, video: Opened, timeline: Timeline) -> None:
        assert video.stream is not None
        self._video = video
        self._stream = video.stream
        self._stream.thread_type = "AUTO"
        self._stream.thread_count = _THREADS
        self._timeline = timeline
        self._base = video.stream.time_base
        self._key_times = [self._time(stamp) for stamp in timeline.keys]
        self._frame_time = 10**6 / float(video.stream.average_rate or 25)
        self._frames = self._decoded()
        self._now: tuple[int, VideoFrame] | None = None
        self._next: tuple[int, VideoFrame] | None = None
        self._ended = self._failed = False
        self._can_seek = True

    def _time(self, stamp: int) -> int:
        return microseconds(stamp - self._timeline.first, self._base) if self._base else stamp

    def frame(self, number: int) -> VideoFrame | None:
        """The frame on screen at a time of the timeline; None if it is damaged."""
        time, shown = self._timeline.times[number], self._timeline.shown[number]
        self._seek(time)
        self._advance(time)
        if self._now is None and self._next is not None:  # the first frames lack what they are made of
            return self._next[1]
        if self._now is None or (self._is_damaged and abs(self._now[0] - shown) > self._frame_time / 2):
            return None
        return self._now[1]

    @property
    def _is_damaged(self) -> bool:
        return self._failed or bool(self._timeline.damage)

    def _advance(self, time: int) -> None:
        """Decode until the next frame comes later than that."""
        while not self._ended and (self._next is None or self._next[0] <= time):
            self._now = self._next or self._now
            self._next = next(self._frames, None)
            self._ended = self._next is None

    def _decoded(self, behind_key: bool = False) -> Iterator[tuple[int, VideoFrame]]:
        """All frames from here on, with their times; what is damaged is passed over."""
        last = -1
        for packet in self._packets():
            if behind_key and packet.size and not packet.is_keyframe:
                continue
            behind_key = False
            for frame in self._decode(packet):
                stamp = stamp_of(frame)
                time = self._time(stamp) if stamp is not None else last + round(self._frame_time)
                last = max(time, 0)
                yield last, frame

    def _packets(self) -> Iterator[Packet[Any]]:
        from av.error import FFmpegError

        try:
            for packet in self._video.container.demux(self._stream):
                if self._video.file.lost is None:  # the rest of the last packet would be taken for damage
                    yield packet
        except FFmpegError:
            self._failed = True
        self._video.file.check()

    def _decode(self, packet: Packet[Any]) -> list[VideoFrame]:
        from av.error import FFmpegError

        try:
            frames: list[VideoFrame] = packet.decode()
        except FFmpegError:
            self._failed = True
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        self._failed |= len(whole) < len(frames)
        return whole

    def _seek(self, time: int) -> None:
        """Go to the last place before a time at which decoding can begin, if that saves much."""
        place = bisect_right(self._key_times, time) - 1
        here = self._next[0] if self._next is not None else 0
        if not self._can_seek or place < 0 or self._key_times[place] - here < _WORTH * self._frame_time:
            return
        for key in range(place, max(-1, place - 1 - _TRIES), -1):
            if self._key_times[key] <= here:
                break
            if self._begin_at(self._timeline.keys[key]) and self._next is not None and here < self._next[0] <= time:
                return
        self._can_seek = False
        self._begin_at(None)

    def _begin_at(self, stamp: int | None) -> bool:
        """Decode from a key frame on, or from the start."""
        from av.error import FFmpegError

        try:
            start = self._timeline.first if stamp is None else stamp
            self._video.container.seek(start, stream=self._stream, backward=True)
        except FFmpegError:
            return False
        self._frames = self._decoded(behind_key=stamp is not None)
        self._now, self._next, self._ended = None, next(self._frames, None), False
        return True
