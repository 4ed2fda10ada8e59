"""Where the scenes of a video change, told from its frames alone.

Half a second of frames is compared with the half second before, as thumbnails of luma and colour. A cut is a peak of
their difference. A cross-fade is one, too, and wider; and while the camera moves the difference is high, but has no
peak that stands out. The means differ most right at a cut, and the medians not at all by a flash: the smaller
difference counts.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_SIDE = 16  # of a thumbnail: what moves within a scene changes few of its pixels
_SECONDS = 0.5
_MOST_FRAMES = 60  # of half a second of a camera for slow motion
_LEAST = 20.0
"""Mean absolute difference of Y, U and V together, of 255 each, from which scenes differ."""
_PROMINENCE = 0.5
"""Share of a peak that stands out from what is around it."""


class SceneDetector:
    """Takes the frames of a video in order, and says how they divide into scenes."""

    def __init__(self, rate: float) -> None:
        from av.video.reformatter import VideoReformatter

        self._width = min(max(2, round(rate * _SECONDS)), _MOST_FRAMES)
        self._reformatter = VideoReformatter()
        self._recent: deque[Float[np.ndarray, "3 s s"]] = deque(maxlen=2 * self._width)
        self._changes: list[float] = []
        self._n = 0

    def add(self, frame: VideoFrame) -> None:
        """Take the next frame."""
        from av.video.reformatter import Interpolation

        small = self._reformatter.reformat(frame, _SIDE, _SIDE, "yuv444p", interpolation=Interpolation.AREA, threads=1)
        self.add_thumbnail(small.to_ndarray().astype(np.float64))

    def add_thumbnail(self, thumbnail: Float[np.ndarray, "3 s s"]) -> None:
        """Take the next frame as a thumbnail."""
        for _ in range(1 if self._n else 1 + self._width):  # before the first frame all was as in it
            self._push(thumbnail)
        self._n += 1

    def _push(self, thumbnail: Float[np.ndarray, "3 s s"]) -> None:
        self._recent.append(thumbnail)
        if len(self._recent) == 2 * self._width:
            halves = np.stack(self._recent).reshape(2, self._width, *thumbnail.shape)
            means, medians = halves.mean(1), np.median(halves, 1)
            self._changes.append(min(_difference(*means), _difference(*medians)))

    def starts(self) -> Int64[np.ndarray, "m"]:
        """Number of the first frame of each scene; there are no frames behind these."""
        from scipy.signal import find_peaks  # half a second of imports

        if not self._n:
            return np.zeros(0, np.int64)
        for _ in range(self._width):  # behind the last frame all is as in it
            self._push(self._recent[-1])
        changes = np.array(self._changes)
        peaks, found = find_peaks(changes, height=_LEAST, distance=self._width, prominence=0.0)
        cuts = peaks[found["prominences"] >= _PROMINENCE * changes[peaks]]
        return np.concatenate([[0], cuts[cuts > 0]]).astype(np.int64)

    def middles(self) -> Int64[np.ndarray, "m"]:
        """Number of the middle frame of each scene."""
        starts = self.starts()
        if not len(starts):
            return starts
        middles: Int64[np.ndarray, "m"] = (starts + np.append(starts[1:], self._n) - 1) // 2
        return middles


def _difference(one: Float[np.ndarray, "3 s s"], other: Float[np.ndarray, "3 s s"]) -> float:
    """Mean absolute difference of Y, U and V, added up."""
    return float(np.abs(one - other).mean((1, 2)).sum())
