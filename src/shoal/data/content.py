"""Kinds of files by their first bytes."""

from __future__ import annotations

import re

from shoal.data.kinds import (
    AVIF,
    BY_NAME,
    BY_SUFFIX,
    DIB,
    DICOM,
    HEIC,
    HTML,
    JPEG,
    JPEG_LS,
    JSON,
    RAW,
    SVG,
    TEXT,
    VIDEO,
    XML,
    Kind,
)

HEAD = 512
"""Bytes from the start of a file that tell its kind."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0\x10\0\0\0CR\x02", "camera raw"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"MMOR", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\0MRM", "camera raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "camera raw"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS\0\x01", "PSD"),
    (b"8BPS\0\x02", "editor's file"),
    (b"gimp xcf", "editor's file"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\x01\xda\0\x01", "SGI"),
    (b"\x01\xda\0\x02", "SGI"),
    (b"\x01\xda\x01\x01", "SGI"),
    (b"\x01\xda\x01\x02", "SGI"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"BPG\xfb", "BPG"),
    (b"FLIF", "FLIF"),
    (b"\xd7\xcd\xc6\x9a", "drawing"),
    (b"/* XPM */", "X bitmap"),
    (b"\x59\xa6\x6a\x95", "SunRaster"),
    (b"AT&TFORM", "document"),
    (b"\xd0\xcf\x11\xe0", "document"),
    (b"{\\rtf", "document"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"FLV\x01", "video"),
    (b"\0\0\x01\xba", "video"),
    (b"\0\0\x01\xb3", "video"),
    (b"0&\xb2u\x8ef\xcf\x11", "video"),
    (b"\x06\x0e+4\x02\x05\x01\x01", "video"),
    (b".RMF", "video"),
    (b"DKIF", "video"),
    (b"PK\x03\x04", "archive"),
    (b"\x1f\x8b", "archive"),
    (b"BZh", "archive"),
    (b"\xfd7zXZ\0", "archive"),
    (b"7z\xbc\xaf\x27\x1c", "archive"),
    (b"Rar!\x1a\x07", "archive"),
    (b"ID3", "sound"),
    (b"OggS", "sound"),
    (b"fLaC", "sound"),
    (b"\x93NUMPY", "data file"),
    (b"PAR1", "table"),
    (b"\x89HDF\r\n", "data file"),
    (b"SQLite format 3", "data file"),
    (b"\x7fELF", "program"),
)
"""How files begin; the first that fits."""

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), HEIC),
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    b"crx ": RAW,
}
_ATOMS = (b"moov", b"mdat", b"wide")  # with which a QuickTime movie without brands begins
_SYNC = b"GGG"  # at the beginning of each packet of an MPEG transport stream, which may have a time before it
_GENERAL_BRANDS = (b"mif1", b"msf1", b"miaf")  # of images whose coding only the other brands tell
_PCX = re.compile(rb"\n[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]", re.DOTALL)
_PPM = re.compile(rb"P([1-6f]|F)\s")
_MARKUP = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(!doctype html|html|svg|\?xml)", re.IGNORECASE)
_TEXT_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def kind_of_content(head: bytes) -> Kind | None:
    """Tell the kind of a file by its first ``HEAD`` bytes; None where they say nothing."""
    if head[:3] == b"\xff\xd8\xff":
        return JPEG_LS if _is_jpeg_ls(head) else JPEG
    if head[4:8] == b"ftyp":
        return _kind_of_brands(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": BY_NAME["WebP"], b"AVI ": VIDEO}.get(head[8:12], BY_NAME["sound"])
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return BY_NAME[name]
    if head[128:132] == b"DICM":
        return DICOM
    is_stream = head[4:8] in _ATOMS or _SYNC in (head[0:377:188], head[4:389:192])
    return _kind_of_weak_magic(head) or (VIDEO if is_stream else _kind_of_text(head))


def _is_jpeg_ls(head: bytes) -> bool:
    """Tell JPEG-LS from JPEG by its frame header, before which there may be other segments."""
    at = 2
    while head[at : at + 1] == b"\xff" and b"\xe0" <= head[at + 1 : at + 2] <= b"\xef":
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return head[at : at + 2] == b"\xff\xf7"


def _kind_of_brands(head: bytes) -> Kind:
    """Tell the kind of a file in ISO's base format by its major brand, or else by those it is compatible with."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if brands[0] in _BRANDS or (brands[0] in _GENERAL_BRANDS and known):
        return known[0]
    return HEIC if brands[0] in _GENERAL_BRANDS else VIDEO


def _kind_of_weak_magic(head: bytes) -> Kind | None:
    """Tell kinds whose first bytes are so few that others have them as well."""
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return BY_NAME["BMP"]
    if _PPM.match(head):
        return BY_NAME["PPM"]
    if _PCX.match(head):
        return BY_NAME["PCX"]
    if head[:4] == b"icns":
        return BY_SUFFIX[".icns"]
    if head[:4] == b"\0\0\x01\0" and b"\0" < head[4:5] <= b"\x40" and head[5:6] == head[9:10] == b"\0":
        return BY_SUFFIX[".ico"]
    size = int.from_bytes(head[:4], "little")
    planes = head[8:10] if size == 12 else head[12:14]
    return DIB if size in (12, 40, 52, 56, 64, 108, 124) and planes == b"\x01\0" else None


def _kind_of_text(head: bytes) -> Kind | None:
    if markup := _MARKUP.match(head):
        if b"<svg" in head.lower():
            return SVG
        return XML if markup[1] == b"?xml" else HTML
    if not head or _TEXT_CONTROLS.search(head):
        return None
    try:
        head[:-3].decode()  # without what may be the beginning of a letter
    except UnicodeDecodeError:
        return None
    return JSON if head.lstrip()[:1] in (b"{", b"[") else TEXT
