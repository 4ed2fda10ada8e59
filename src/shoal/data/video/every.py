"""How often a frame of a video is taken, as a person writes it, and the names of frames."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from typing import Literal, TypeAlias

from shoal.errors import UserError

Every: TypeAlias = int | Literal["scene"]
"""Microseconds between two frames, or one frame of each scene."""

SCENE: Literal["scene"] = "scene"
INSTALL = "pip install 'shoal[video]'"

_MICROSECONDS = {"ms": 10**3, "": 10**6, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6}
_INTERVAL = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|h|)")
_LONGEST = 10**14  # three years; NumPy's whole numbers hold more
_FRAME = re.compile(r"#t=(\d{1,12})\.(\d{1,6})(?:#\d+)?$")


def parse_every(text: str) -> Every:
    """Parse ``2s``, ``500ms``, ``1min``, ``1.5h``, seconds without a unit, or ``scene``.

    Raises:
        UserError: it is none of these, or shorter than a millisecond.
    """
    if text == SCENE:
        return SCENE
    found = _INTERVAL.fullmatch(text.strip().lower())
    every = round(float(found[1]) * _MICROSECONDS[found[2]]) if found else 0
    if not 1000 <= every <= _LONGEST:
        raise UserError(f"--every {text!r} is not an interval: give one such as 2s, 500ms or 1min, or scene.")
    return every


def check_every(text: str) -> None:
    """Raise a UserError for an interval that is none, and where videos cannot be read; "" asks for no frames."""
    if text:
        parse_every(text)
        if not can_read_videos():
            raise UserError(f"--every takes frames of videos, which needs PyAV: {INSTALL}.")


@cache
def can_read_videos() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def frame_name(video: str, time: int) -> str:
    """Name a frame by its time in microseconds, ``clip.mp4#t=12.0``."""
    seconds, rest = divmod(time, 10**6)
    return f"{video}#t={seconds}.{f'{rest:06d}'.rstrip('0') or '0'}"


def video_of(name: str) -> str:
    """The name of the video in a ``frame_name``."""
    return _FRAME.sub("", name)


def time_in_name(name: str) -> int:
    """The time in a ``frame_name``, in microseconds; −1 for other names."""
    found = _FRAME.search(name)
    return int(found[1]) * 10**6 + int(found[2].ljust(6, "0")) if found else -1
