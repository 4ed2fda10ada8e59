"""Opening a video: the file alone, in the formats of videos alone, and the stream that holds its pictures."""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from shoal.data.decode import UnreadableError
from shoal.data.kinds import VIDEO, damaged
from shoal.data.video.clip import Clip

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "m4v"),
    *("flv", "live_flv", "asf", "ogg", "mxf", "mxf_opatom", "rm", "ivf", "nut", "h264", "hevc", "av1", "obu", "r3d"),
    *("mpegtsraw", "dv", "wtv", "gxf", "nsv", "vob"),
)
"""Demuxers of libavformat that read one file. Others, such as those of playlists, would open what a file names, also on
other machines."""

_BUFFER = 2**18  # bytes that are read at a time
_MOST_PIXELS = 2**26
"""Of a frame. Decoders hold some 20 of them, so the limit is lower than that of images; 8K has half as many."""


class VideoFile:
    """A file as libav reads it. Errors are kept in ``lost`` and look like its end: raised, PyAV would print some."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.lost: OSError | None = None

    def read(self, n: int) -> bytes:
        """The next bytes; none at the end, or where they cannot be read."""
        try:
            return self._file.read(n)
        except OSError as error:
            self.lost = error
        except (EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
            self.lost = OSError(errno.EINVAL, f"damaged: {error}")
        return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; −1 where there is none, as damaged headers may ask for."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1

    def tell(self) -> int:
        """The place where it is."""
        return self._file.tell()

    def check(self) -> None:
        """Raise the OSError for which less was read than there is, if there was one."""
        if self.lost is not None:
            raise self.lost


@dataclass(frozen=True, eq=False)
class Opened:
    """A video that is open."""

    file: VideoFile
    container: InputContainer
    stream: VideoStream | None
    """The pictures; None where there is only sound, perhaps with a cover."""


@contextlib.contextmanager
def opened(clip: Clip) -> Iterator[Opened]:
    """Open a video.

    Raises:
        UnreadableError: it is none, is damaged at its beginning, or has no decoder here.
        OSError: it is not a regular file, or cannot be read.
    """
    import av
    from av.error import FFmpegError

    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(clip.opened())
        file = VideoFile(raw)
        if not file.read(1):
            file.check()
            raise UnreadableError("empty file")
        file.seek(0)
        # As an open file and not by its name, which might look like a protocol.
        try:
            found = av.open(
                *(file, "r"),
                container_options={"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"},
                metadata_errors="replace",
                buffer_size=_BUFFER,
            )
        except FFmpegError as error:
            file.check()
            raise UnreadableError(damaged(VIDEO, f"no video ({reason_of(error)})")) from error
        container = stack.enter_context(found)
        yield Opened(file, container, _pictures(container))


def _pictures(container: InputContainer) -> VideoStream | None:
    """The stream of pictures: the default one, or else the largest; covers and thumbnails are none."""
    from av.stream import Disposition

    beside = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [each for each in container.streams.video if not each.disposition & beside]
    if not streams:
        return None
    stream = max(streams, key=lambda each: (bool(each.disposition & Disposition.default), _n_pixels(each)))
    if stream.codec_context is None:
        raise UnreadableError("a video without a decoder for it: convert it to H.264")
    if _n_pixels(stream) > _MOST_PIXELS:
        raise UnreadableError("too many pixels, perhaps a decompression bomb")
    return stream


def _n_pixels(stream: VideoStream) -> int:
    return 0 if stream.codec_context is None else stream.codec_context.width * stream.codec_context.height


def reason_of(error: Exception) -> str:
    """What libav says, in a few words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
