"""Which frames of a video are taken, found by going through it once, and kept in the cache.

For frames at intervals its packets are enough, which are read and not decoded: no header says reliably how many frames
there are, or how long a file that was cut off is. For scenes every frame is decoded.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from shoal.data.cache import cache_folder
from shoal.data.decode import UnreadableError
from shoal.data.kinds import VIDEO, damaged
from shoal.data.reach import out_of_reach
from shoal.data.video.clip import Clip
from shoal.data.video.every import SCENE, Every
from shoal.data.video.opening import Opened, opened, reason_of
from shoal.data.video.scenes import SceneDetector
from shoal.errors import UserError
from shoal.files import atomic_write

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

_FORMAT = 2  # increment when other frames are taken: what the cache knows is then ignored
_TOLD = 256  # packets between two reports of progress
_STATED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf")
"""Formats whose header says how long the video is."""
_BACK = 500_000  # microseconds that a time stamp of decoding lies before the last one where it starts again
_LACKING = 10**6  # microseconds that a video may end before its header says


@dataclass(frozen=True)
class Timeline:
    """The frames of a video that are taken, in order; times are microseconds after its first frame."""

    times: list[int] = field(default_factory=list)
    """When each is on screen."""
    shown: list[int] = field(default_factory=list)
    """When each comes on screen."""
    keys: list[int] = field(default_factory=list)
    """Time stamps, in units of the stream, of frames from which decoding can begin."""
    first: int = 0
    """Time stamp of the first frame."""
    damage: str = ""
    """Why there may be more than was found."""
    has_pictures: bool = True
    """False for sound alone."""


def timeline_of(clip: Clip, every: Every, told: Callable[[int], object] = lambda _position: None) -> Timeline:
    """Find the frames of a video to take, or recall them; ``told`` is called with the bytes that have been read.

    Raises:
        UserError: its archive cannot be reached.
    """
    kept = cache_folder() / f"{_key(clip, every)}.video"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Timeline(**json.loads(kept.read_bytes()))
    try:
        found = _scan(clip, every, told)
    except UnreadableError as error:
        found = Timeline(damage=str(error))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        found = Timeline(damage=(getattr(error, "strerror", None) or str(error)).lower())
        if out_of_reach(error):
            return found
    with contextlib.suppress(UserError, OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, json.dumps(asdict(found)).encode())
    return found


def _key(clip: Clip, every: Every) -> str:
    import av

    parts = [_FORMAT, clip.name, clip.stat(), every, av.library_versions["libavformat"]]
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def microseconds(stamp: int, base: Fraction) -> int:
    """A time stamp, or the difference of two, in microseconds."""
    return (2 * stamp * base.numerator * 10**6 + base.denominator) // (2 * base.denominator)


def stamp_of(item: Packet[Any] | VideoFrame) -> int | None:
    """The time stamp of a packet or a frame; some formats only have that of decoding."""
    return item.pts if item.pts is not None else item.dts


class _Walk:
    """Goes through the packets of a video, and notes when frames are shown and how far it came."""

    def __init__(self, video: Opened, told: Callable[[int], object]) -> None:
        assert video.stream is not None
        self._video = video
        self._told = told
        self._base = video.stream.time_base or Fraction(1, 10**6)
        self._end = 0  # of all streams, in microseconds
        self._start = min(0, video.container.start_time or 0)
        self.stamps: list[int] = []
        self.keys: list[int] = []
        self.broken = ""
        self.has_restarted = False
        self._last = -(2**62)

    def packets(self) -> Iterator[Packet[Any]]:
        """Those of the pictures."""
        from av.error import FFmpegError

        try:
            for number, packet in enumerate(self._video.container.demux()):
                if number % _TOLD == 0:
                    self._told(self._video.file.tell())
                self._note_end(packet)
                if packet.stream_index == self._video.stream.index:  # type: ignore[union-attr]
                    if self._begins_again(packet):
                        break
                    if packet.size and not packet.is_discard:
                        self._note(packet)
                    yield packet
        except FFmpegError as error:
            self.broken = reason_of(error)
        self._video.file.check()

    def _begins_again(self, packet: Packet[Any]) -> bool:
        """Whether time stamps start again, as where recordings were joined byte by byte: one stamp means two frames."""
        stamp = packet.dts  # those of showing go back and forth; of some packets there is no other
        if stamp is None:
            return False
        self.has_restarted = microseconds(self._last - stamp, self._base) > _BACK
        self._last = stamp
        return self.has_restarted

    def _note(self, packet: Packet[Any]) -> None:
        stamp = stamp_of(packet)
        if stamp is None:  # of a part of a frame, or of one right behind the last
            return
        self.stamps.append(stamp)
        if packet.is_keyframe:
            self.keys.append(stamp)

    def _note_end(self, packet: Packet[Any]) -> None:
        stamp = stamp_of(packet)
        if stamp is not None and packet.time_base:
            end = microseconds(stamp + (packet.duration or 0), packet.time_base) - self._start
            self._end = max(self._end, end)

    def times(self) -> Int64[np.ndarray, "n"]:
        """When the frames are shown, each once and in order."""
        first = min(self.stamps, default=0)
        return np.unique(np.array([microseconds(stamp - first, self._base) for stamp in self.stamps], np.int64))

    def places(self) -> list[int]:
        """Stamps of key frames, one in half a second: in some formats all frames are."""
        found: dict[int, int] = {}
        for stamp in self.keys:
            found.setdefault(2 * microseconds(stamp, self._base) // 10**6, stamp)
        return sorted(found.values())

    def damage(self) -> str:
        """Why there may be more, if there may."""
        end, lasts = f"kept up to {self._end / 10**6:.1f} s", self._stated()
        if self.has_restarted:
            return f"its time stamps start again: {end}; 'ffmpeg -i FILE -c copy NEW.mp4' makes one that is read whole"
        if self.broken:
            return damaged(VIDEO, f"one that was cut off: {end} ({self.broken})")
        if self._end + max(_LACKING, lasts // 50) < lasts:
            return damaged(VIDEO, f"one that was cut off: {end} of {lasts / 10**6:.1f} s")
        return ""

    def _stated(self) -> int:
        """How long the video is by its header, in microseconds; 0 if that does not say it."""
        container, stream = self._video.container, self._video.stream
        if container.format.name not in _STATED:
            return 0
        found = container.duration or 0
        if container.format.name == "avi" and stream is not None and stream.average_rate:  # of what is there
            found = max(found, round(stream.frames * 10**6 / stream.average_rate))
        return found


def _scan(clip: Clip, every: Every, told: Callable[[int], object]) -> Timeline:
    with opened(clip) as video:
        if video.stream is None:
            return Timeline(has_pictures=False)
        walk = _Walk(video, told)
        if every == SCENE:
            times = shown = _scenes(video, walk)
        else:
            deque(walk.packets(), 0)
            times, shown = _at_intervals(walk.times(), every)
        if not walk.stamps:
            return Timeline(damage=walk.damage() or damaged(VIDEO, "one without a frame"))
        return Timeline(times.tolist(), shown.tolist(), walk.places(), min(walk.stamps), walk.damage())


def _at_intervals(frames: Int64[np.ndarray, "n"], every: int) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """The multiples of an interval, and the frame on screen then; none is taken twice, however long it stays there.

    Args:
        frames: when each frame comes on screen, ascending, the first at 0.
        every: the interval.
    """
    usual = int(np.median(np.diff(frames))) if len(frames) > 1 else 1
    gone = np.append(frames[1:], frames[-1:] + max(1, usual))
    times = -(-frames // every) * every
    taken = times < gone
    return times[taken], frames[taken]


def _scenes(video: Opened, walk: _Walk) -> Int64[np.ndarray, "m"]:
    """When the middle frame of each scene comes on screen."""
    from av.error import FFmpegError

    assert video.stream is not None
    stream, base = video.stream, walk._base
    detector, stamps = SceneDetector(float(stream.average_rate or 25)), list[int]()
    for packet in walk.packets():
        with contextlib.suppress(FFmpegError):  # a frame that is damaged
            for frame in packet.decode():
                if (stamp := stamp_of(frame)) is not None:
                    detector.add(frame)
                    stamps.append(stamp)
    if not stamps:
        return np.zeros(0, np.int64)
    first = min(walk.stamps)
    times = np.array([max(0, microseconds(stamp - first, base)) for stamp in stamps], np.int64)
    return np.unique(times[detector.middles()])
