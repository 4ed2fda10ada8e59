"""Images that are read by a package of the extra ``formats``: HEIC, JPEG XL, camera raw, DICOM.

Each is imported when the first image of its kind is met. Memory is judged by the header, as for all images, before a
decoder is let loose.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from shoal.data.greys import Range, Samples
from shoal.data.kinds import DICOM, HEIC, JPEG_XL, Kind

_FLIPS = {0: 1, 3: 3, 5: 8, 6: 6}
"""The orientations of EXIF that LibRaw's turns stand for."""

_MAKE, _SUBFILE, _COMPRESSION, _PHOTOMETRIC, _DNG_VERSION = 271, 254, 259, 262, 50706
_RAW_COMPRESSIONS = (34713, 32767, 32769, 32770, 65535, 65000)  # Nikon, Sony, Samsung, Pentax, Kodak
_RAW_PHOTOMETRICS = (32803, 34892)  # a mosaic of colours, or what was made of one

_MAX_SENSOR = 2**28  # pixels; the largest camera has 150 million

_import_lock = Lock()


@dataclass(frozen=True)
class Opened:
    """An image whose size is known, and that is not decoded yet."""

    width: int
    height: int
    read: Callable[[], Image.Image | Samples]
    kind: str = ""
    """Type of its samples where they have more than 8 bits and the file states no range for them."""


def prepare(kind: Kind) -> None:
    """Let Pillow open images of a kind that a package adds to it.

    Raises:
        ImportError: the package is there, but cannot be imported.
    """
    if kind is HEIC:
        _register_heif()


def opener_of(kind: Kind | None) -> Callable[[bytes], Opened] | None:
    """Return what opens images of a kind that Pillow does not open; None where Pillow does."""
    return None if kind is None else {JPEG_XL: _open_jpeg_xl, DICOM: _open_dicom}.get(kind)


@cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1  # images are decoded in threads already
    pillow_heif.register_heif_opener()


# JPEG XL

_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BITS = (9, 13, 18, 30)


def _open_jpeg_xl(data: bytes) -> Opened:
    """Open a JPEG XL, which its decoder turns upright; the tag of EXIF holds only for a JPEG that was packed in it."""
    with _import_lock:
        from pillow_jxl import JpegXLImagePlugin

        JpegXLImagePlugin.DECODE_THREADS = 0  # images are decoded in threads already
    width, height = size_of_jpeg_xl(data)

    def read() -> Image.Image:
        try:
            image: Any = JpegXLImagePlugin.JXLImageFile(BytesIO(data))
            image.load()
        except Exception as error:  # what it says is for those who build it
            raise ValueError("the decoder of JPEG XL gives up") from error
        if not image.jpeg:
            image.info.pop("exif", None)
        found: Image.Image = image
        return found

    return Opened(width, height, read)


def size_of_jpeg_xl(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG XL (ISO/IEC 18181-1, D.2), whose decoder would make all pixels first.

    Raises:
        ValueError: it has no header.
    """
    stream = data if data[:2] == b"\xff\x0a" else _code_stream(data)
    bits, at = int.from_bytes(stream[2:16], "little"), 0

    def take(n: int) -> int:
        nonlocal at
        at += n
        return bits >> (at - n) & ((1 << n) - 1)

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_SIZE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if not ratio:
        return side(), height
    wide, high = _RATIOS[ratio - 1]
    return height * wide // high, height


def _code_stream(data: bytes) -> bytes:
    """The beginning of the code stream in the boxes of a container."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8]), start + 8
        if name in (b"jxlc", b"jxlp"):
            return data[start + 4 * (name == b"jxlp") :][:32]
        if size < 8:
            break
        at += size
    raise ValueError("no code stream")


# Camera raw


def is_raw_tiff(data: bytes) -> bool:
    """Tell the raw file of a camera from other TIFFs, whose first image is the picture and not a thumbnail."""
    try:
        file = BytesIO(data)
        head = file.read(16 if data[2:4] in (b"+\0", b"\0+") else 8)
        tags: Any = ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        if _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _RAW_PHOTOMETRICS:
            return True
        return _MAKE in tags and (tags.get(_SUBFILE) == 1 or tags.get(_COMPRESSION) in _RAW_COMPRESSIONS)
    except Exception:  # it is reported when the file is read as a TIFF
        return False


def raw_preview(data: bytes) -> tuple[bytes | Image.Image, int]:
    """The JPEG that a camera has put beside the raw samples, and the camera's orientation.

    A file without one is developed at half its size. Previews that are not JPEGs are not used: of a damaged file, their
    memory may be smaller than rawpy says.

    Raises:
        ValueError: the file is damaged, or of a camera that LibRaw does not know.
        DecompressionBombError: it has too many pixels to be developed.
    """
    with _import_lock:
        import rawpy

    with _told(rawpy.LibRawError), rawpy.imread(BytesIO(data)) as raw:
        turn = _FLIPS.get(raw.sizes.flip, 1)
        with contextlib.suppress(rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
            found = raw.extract_thumb()
            if isinstance(found.data, bytes):
                return found.data, turn
        if raw.sizes.raw_width * raw.sizes.raw_height > _MAX_SENSOR:
            raise Image.DecompressionBombError
        return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True, user_flip=0)), turn


@contextlib.contextmanager
def _told(kind: type[Exception]) -> Iterator[None]:
    """Turn the bytes that LibRaw gives as a reason into text."""
    try:
        yield
    except kind as error:
        reason = error.args[0] if error.args else ""
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(error)) from error


# DICOM


def _open_dicom(data: bytes) -> Opened:
    """Open the first frame of a DICOM image, shown through its window where it has one."""
    with _import_lock:
        import pydicom

    found: Any = pydicom.dcmread(BytesIO(data))
    if "PixelData" not in found:
        raise ValueError("no pixels")
    window = _window(found)
    deep = int(found.BitsAllocated) > 8 and found.SamplesPerPixel == 1
    kind = f"int{found.BitsAllocated}" if found.PixelRepresentation else f"uint{found.BitsAllocated}"
    return Opened(
        int(found.Columns),
        int(found.Rows),
        lambda: _dicom_image(found, window),
        kind="" if window or not deep else kind,
    )


def _dicom_image(found: Any, window: Range | None) -> Image.Image | Samples:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    values: NDArray[Any] = pixel_array(found, index=0)
    bits = int(found.BitsStored)
    if found.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, found)
        bits = 8 * values.dtype.itemsize  # of the table, however few its indices have
    if values.ndim == 3:
        top = 255 if values.dtype == np.uint8 else 2**bits - 1
        return Image.fromarray((values.astype(np.float32) * (255 / top)).round().clip(0, 255).astype(np.uint8))
    negative = (found.PhotometricInterpretation == "MONOCHROME1") != (_rescale(found)[0] < 0)
    if window is None and values.dtype == np.uint8:
        window = (0.0, float(2**bits - 1))
    return Samples(values, window, negative=negative)


def _rescale(found: Any) -> tuple[float, float]:
    """Slope and intercept of the line that makes values of what is stored (PS3.3, C.11.1.1.2)."""
    return float(found.get("RescaleSlope") or 1), float(found.get("RescaleIntercept") or 0)


def _window(found: Any) -> Range | None:
    """The stored values at the ends of the first window of the file (PS3.3, C.11.2.1.2)."""
    center, width = (found.get(name) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None
    center, width = (float(value[0] if hasattr(value, "__len__") else value) for value in (center, width))
    half = width / 2 if found.get("VOILUTFunction") == "LINEAR_EXACT" else (width - 1) / 2
    middle = center if found.get("VOILUTFunction") == "LINEAR_EXACT" else center - 0.5
    slope, intercept = _rescale(found)
    low, high = sorted((middle + side * half - intercept) / slope for side in (-1, 1))
    return (low, high) if low < high else None
