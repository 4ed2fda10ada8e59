"""Where the scenes of a video change, told from its frames alone.

The mean of half a second of frames is compared with that of the half second before, as thumbnails of luma and colour. A
cut is a peak of that difference. A cross-fade is one, too, and wider; a flash is none, since what is behind it is what was
before it; and while the camera moves the difference is high, but has no peak that stands out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from scipy.signal import find_peaks

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_SIDE = 16  # of a thumbnail: what moves within a scene changes few of its pixels
_SECONDS = 0.5
_MOST_FRAMES = 60  # of half a second of a camera for slow motion
_LEAST = 16.0
"""Mean absolute difference of Y, U and V together, of 255 each, from which scenes differ."""
_PROMINENCE = 0.5
"""Share of a peak that stands out from what is around it."""


class SceneDetector:
    """Takes the frames of a video in order, and says how they divide into scenes."""

    def __init__(self, rate: float) -> None:
        from av.video.reformatter import VideoReformatter

        self._width = min(max(2, round(rate * _SECONDS)), _MOST_FRAMES)
        self._reformatter = VideoReformatter()
        self._recent: deque[Float[np.ndarray, "3 s s"]] = deque()
        self._before = np.zeros((3, _SIDE, _SIDE))  # sums of the older and of the newer half of them
        self._after = np.zeros((3, _SIDE, _SIDE))
        self._changes: list[float] = []
        self._n = 0

    def add(self, frame: VideoFrame) -> None:
        """Take the next frame."""
        from av.video.reformatter import Interpolation

        small = self._reformatter.reformat(
            frame, _SIDE, _SIDE, "yuv444p", interpolation=Interpolation.AREA, threads=1
        )
        self.add_thumbnail(small.to_ndarray().astype(np.float64))

    def add_thumbnail(self, thumbnail: Float[np.ndarray, "3 s s"]) -> None:
        """Take the next frame as a thumbnail."""
        self._n += 1
        self._recent.append(thumbnail)
        self._after += thumbnail
        if len(self._recent) > self._width:
            moved = self._recent[-1 - self._width]
            self._after -= moved
            self._before += moved
        if len(self._recent) > 2 * self._width:
            self._before -= self._recent.popleft()
        if len(self._recent) == 2 * self._width:
            difference = np.abs(self._after - self._before) / self._width
            self._changes.append(float(difference.mean((1, 2)).sum()))

    def starts(self) -> Int64[np.ndarray, "m"]:
        """Number of the first frame of each scene."""
        changes = np.array([0.0, *self._changes, 0.0])  # a peak needs something around it
        peaks, found = find_peaks(changes, height=_LEAST, distance=self._width, prominence=0.0)
        cuts = peaks[found["prominences"] >= _PROMINENCE * changes[peaks]]
        return np.concatenate([[0], cuts - 1 + self._width])

    def middles(self) -> Int64[np.ndarray, "m"]:
        """Number of the middle frame of each scene."""
        starts = self.starts()
        return (starts + np.append(starts[1:], self._n) - 1) // 2
