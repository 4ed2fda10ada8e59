"""The pixels of a decoded frame as the eye should see it: matrix, range and HDR, interlacing, shape and orientation."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shoal.data.decode import NO_MEMORY, UnreadableError
from shoal.data.greys import Samples
from shoal.data.listing import Pixels
from shoal.data.rgb import to_array, to_rgb, turned

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

_UNSPECIFIED, _BT709, _SMPTE170M = 2, 1, 6  # of H.273, table 4: matrices
_RESERVED = (0, 3)
_HDR = (16, 18)  # of H.273, table 3: PQ and HLG
_HD = (1280, 576)
"""A video that does not say its matrix is taken for one in BT.709 if it is wider or higher, as players do."""
_MOST_STRETCHED = 8

_TURNS = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
"""The orientations of EXIF, by the signs of a display matrix."""


_lock = Lock()


@cache
def _for_hdr() -> VideoReformatter:
    """One for all videos: it keeps the table of the last one's conversion, which takes seconds to make."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


class Converter:
    """Makes pixels of the frames of a video, in any thread, one at a time."""

    def __init__(self, aspect: Fraction | None) -> None:
        """``aspect`` is width by height of a pixel, where the container or the stream says it."""
        from av.video.reformatter import VideoReformatter

        self._aspect = aspect
        self._reformatter = VideoReformatter()
        self._turn: int | None = None  # of all frames; to ask each keeps it in memory until cycles are collected

    def __call__(self, frame: VideoFrame) -> Pixels | Samples:
        """RGB, or the samples of a grey frame of more than 8 bits.

        Raises:
            UnreadableError: its pixel format is not supported.
        """
        from av.error import FFmpegError
        from PIL import Image

        try:
            with _lock:
                if self._turn is None:
                    self._turn = orientation_of(frame)
                turn = self._turn
                mode = "gray16le" if _is_deep_grey(frame) else "rgba" if _has_alpha(frame) else "rgb24"
                pixels = self._shaped(frame, mode).to_ndarray()
                if mode == "gray16le":
                    return _upright_samples(pixels, turn)
        except MemoryError as error:
            raise UnreadableError(NO_MEMORY) from error
        except (FFmpegError, ValueError) as error:
            raise UnreadableError(f"an unsupported pixel format, {frame.format.name}") from error
        return to_array(turned(to_rgb(Image.fromarray(pixels)), turn))

    def _shaped(self, frame: VideoFrame, mode: str) -> VideoFrame:
        """Convert to another pixel format, and to square pixels, of which no side gets shorter."""
        from av.error import FFmpegError
        from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation

        _settle_matrix(frame)
        width, height = frame.width, frame.height
        frame = _one_field(frame)
        aspect = self._aspect or Fraction(1)
        if 1 < aspect <= _MOST_STRETCHED:
            width = round(width * aspect)
        elif Fraction(1, _MOST_STRETCHED) <= aspect < 1:
            height = round(height / aspect)
        exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
        flags = Interpolation.BILINEAR | exact
        if frame.color_trc in _HDR:
            with contextlib.suppress(FFmpegError):  # a combination that libswscale does not know
                return _for_hdr().reformat(
                    *(frame, width, height, mode),
                    interpolation=flags,
                    dst_color_trc=ColorTrc.BT709,
                    dst_color_primaries=ColorPrimaries.BT709,
                    threads=1,
                )
        return self._reformatter.reformat(frame, width, height, mode, interpolation=flags, threads=1)


def _settle_matrix(frame: VideoFrame) -> None:
    if frame.colorspace in (_UNSPECIFIED, *_RESERVED) and not frame.format.is_rgb:
        wide = frame.width >= _HD[0] or frame.height > _HD[1]
        frame.colorspace = _BT709 if wide else _SMPTE170M


def _is_deep_grey(frame: VideoFrame) -> bool:
    components = frame.format.components
    return len(components) == 1 and components[0].bits > 8 and not frame.format.has_palette


def _has_alpha(frame: VideoFrame) -> bool:
    return frame.format.has_palette or any(each.is_alpha for each in frame.format.components)


def _upright_samples(values: NDArray[Any], turn: int) -> Samples:
    from PIL import Image

    return Samples(np.asarray(turned(Image.fromarray(values), turn)) if turn != 1 else values)


def orientation_of(frame: VideoFrame) -> int:
    """The orientation of EXIF that a display matrix stands for; angles between are rounded to a quarter turn."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return 1
    a, b, _, c, d = np.frombuffer(bytes(side), np.int32)[:5].astype(np.int64).tolist()  # type: ignore[call-overload]
    straight = abs(a) + abs(d) >= abs(b) + abs(c)
    signs = (a, 0, 0, d) if straight else (0, b, c, 0)
    return _TURNS.get(tuple((each > 0) - (each < 0) for each in signs), 1)  # type: ignore[arg-type]


def _one_field(frame: VideoFrame) -> VideoFrame:
    """Take the upper field of an interlaced frame, half as high: its two fields show different moments."""
    if not frame.interlaced_frame:
        return frame
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    graph.link_nodes(source, graph.add("field", "type=top"), graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    found = graph.pull()
    assert isinstance(found, type(frame))
    return found
