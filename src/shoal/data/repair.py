"""Files whose pixels are whole although something else in them is not: what Pillow needs to read them.

Browsers and viewers show such files. Pillow refuses PNGs with more than a megabyte of text or colour profile, or with a
wrong checksum beside the pixels, and JPEGs that lack their last bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

ORIENTATION = 0x0112  # the tag of Exif

LOST = 0.25
"""A truncated JPEG is refused if a larger share of its rows is missing."""

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"sBIT")
_END = b"\0\0\0\0IEND\xaeB`\x82"
_UNDECODED = 128  # libjpeg makes what it has no bytes for grey
_JPEG_END = b"\xff\xd9"
_SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")
_LONGEST = 2**16 + 2  # bytes of a segment
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without a length
_APP0, _APP1, _APP14, _APPS = 0xE0, 0xE1, 0xEE, range(0xE0, 0xF0)
_SCAN, _COMMENT = 0xDA, 0xFE


def repaired(data: bytes) -> bytes | None:
    """Copy a PNG, JPEG or AVIF with nothing but what its pixels need; None: it is none of them.

    Use it where Pillow has refused the file. A PNG gets an end; that of a JPEG shows that nothing is missing.
    """
    if data.startswith(PNG):
        return b"".join([PNG, *_png_chunks(data), _END])
    if data.startswith(JPEG):
        return _bare_jpeg(data)
    if data[4:8] == b"ftyp":  # AVIF and HEIF: an item of another type than EXIF is not looked into
        index, mark, pixels = data.partition(b"mdat")
        return index.replace(b"Exif", b"free") + mark + pixels
    return None


FILLERS = (b"\xaa" * 64, b"\x6d" * 64)
"""Bytes that show in a JPEG which lacks some of its own, one or the other, whatever its codes are."""


def ended(data: bytes, filler: bytes = b"") -> bytes:
    """Copy a JPEG with an end marker, so that libjpeg makes what is missing grey, as Pillow does on request.

    With a ``filler`` before the marker, the picture is the same where nothing of it is missing.
    """
    return data.rstrip(_JPEG_END[:1]) + filler + _JPEG_END


def before_open_segment(data: bytes) -> bytes | None:
    """Copy a JPEG up to a segment behind its first scan that begins and does not end; None: there is none."""
    for found in _SEGMENT.finditer(data, max(len(_JPEG_END), len(data) - _LONGEST)):
        at = found.end()
        if len(data) < at + 2 or len(data) < at + int.from_bytes(data[at : at + 2]):
            before = data[: found.start()]
            return before if bytes((0xFF, _SCAN)) in before else None
    return None


def lost_share(image: Image.Image) -> float:
    """Share of the rows at the bottom of a JPEG that libjpeg had no bytes for; the image is as it was stored.

    That is, it is not turned, and in the colours of the file: in CMYK, of which Pillow takes the negative, the grey is
    one less in some channels.
    """
    rows = np.asarray(image).reshape(image.height, -1)
    least = _UNDECODED - (image.mode == "CMYK")
    known = np.flatnonzero(((rows < least) | (rows > _UNDECODED)).any(1))
    return 1 - (int(known[-1]) + 1) / image.height if known.size else 1.0


def png_depth(data: bytes) -> int:
    """Bits per sample of a PNG, by its header; 0 where it has none."""
    return data[24] if data[:8] == PNG and data[12:16] == b"IHDR" and len(data) > 25 else 0


def significant_bits(data: bytes) -> int:
    """Return what sBIT says of a PNG: how many bits its samples had at first; 0 if it says nothing."""
    for kind, body in _chunks(data):
        if kind == b"sBIT" and body:
            return max(body)
        if kind == b"IDAT":
            break
    return 0


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Chunks that the pixels need, with right checksums; the last may have lost its end."""
    for kind, body in _chunks(data):
        if kind == b"IEND":
            return
        if kind in _PIXELS:
            yield struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _bare_jpeg(data: bytes) -> bytes:
    """The segments of a JPEG up to its first scan, and all from there on.

    Comments and applications' own segments are left out, but for an Exif that can be read: it has the orientation.
    """
    parts, at = [data[:2]], 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] == _SCAN:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        segment = data[at : at + 2 + length]
        if marker in (_APP0, _APP14) or (marker not in _APPS and marker != _COMMENT) or _is_sound_exif(segment):
            parts.append(segment)
        at += 2 + length
    return b"".join([*parts, data[at:]])


def _is_sound_exif(segment: bytes) -> bool:
    if segment[1] != _APP1 or segment[4:10] != b"Exif\0\0":
        return False
    try:
        exif = Image.Exif()
        exif.load(segment[4:])
        return ORIENTATION in exif
    except Exception:  # depends on what is wrong with it
        return False
