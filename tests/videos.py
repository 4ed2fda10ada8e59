"""Tiny videos, encoded by PyAV."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="videos need PyAV: pip install 'shoal[video]'")

SIZE = (48, 32)
RATE = 10


def colour_of(number):
    """The colour of a frame, which tells its number."""
    return np.array([(number * 37) % 256, (number * 91 + 40) % 256, (255 - number * 53) % 256], np.uint8)


def plain(number, size=SIZE):
    """A frame of one colour, (h, w, 3)."""
    return np.broadcast_to(colour_of(number), (size[1], size[0], 3)).copy()


def encode(
    path: Path,
    n=20,
    *,
    draw=plain,
    codec="ffv1",
    pixels="bgr0",
    size=SIZE,
    rate=RATE,
    gop=10,
    stamps=None,
    base=None,
    degrees=0,
    options=None,
    container=None,
    tags=None,
    source="rgb24",
    sound=False,
):
    """Write a video of n frames, which ``draw`` makes by their numbers.

    Args:
        path: of the file; its suffix is the format.
        n: how many frames.
        draw: makes a frame of format ``source`` by its number.
        codec: by default a lossless one of RGB.
        pixels: format of the pixels that are encoded.
        size: width and height.
        rate: frames a second.
        gop: frames from one key frame to the next.
        stamps: time stamp of each frame, in units of ``base``.
        base: the unit.
        degrees: that a player turns the picture by.
        options: of the codec.
        container: options of the format.
        tags: ``colorspace``, ``color_range`` and the like, of the stream and its frames.
        source: format of what ``draw`` makes; the same as ``pixels``, it is not converted.
        sound: whether there is a stream of sound, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.options = options or {}
        stream.codec_context.gop_size = gop
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if degrees:
            stream.set_display_rotation(degrees)
        if base is not None:
            stream.codec_context.time_base = base
        noise = file.add_stream("aac" if path.suffix != ".mkv" else "flac", rate=8000) if sound else None
        for number in range(n):
            frame = _frame(np.ascontiguousarray(draw(number)), source)
            for name, value in (tags or {}).items():
                if hasattr(frame, name):
                    setattr(frame, name, value)
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = base or Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if noise is not None:
            _add_sound(file, noise, n / rate)
    return path


def _frame(array, pixels):
    if not pixels.startswith("yuv444p"):
        return av.VideoFrame.from_ndarray(array, format=pixels)
    frame = av.VideoFrame(array.shape[2], array.shape[1], pixels)
    for plane, values in zip(frame.planes, array, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : values.shape[1] * values.itemsize] = values.view(np.uint8)
        plane.update(rows.tobytes())
    return frame


def _add_sound(file, stream, seconds):
    silence = np.zeros((1, int(8000 * seconds)), np.float32)
    frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 8000, 0
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=8000)
    fifo = av.AudioFifo()
    for each in resampler.resample(frame):
        fifo.write(each)
    while (part := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
        file.mux(stream.encode(part))
    file.mux(stream.encode())
