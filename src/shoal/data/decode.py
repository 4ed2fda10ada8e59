"""Decoding one image file to RGB pixels. Broken files raise ``UnreadableError`` with a short reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from io import BytesIO
from threading import Condition
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from shoal.data import plugins, tiff, tiff_tags
from shoal.data.content import HEAD, kind_of_content
from shoal.data.greys import Samples, Scale, clipping_note
from shoal.data.kinds import RAW, TGA, Kind, damaged
from shoal.data.repair import (
    FILLERS,
    JPEG,
    LOST,
    before_open_segment,
    ended,
    lost_share,
    png_depth,
    repaired,
)
from shoal.data.rgb import (
    centre_square,
    interpret,
    largest_of_ppm,
    orientation_of,
    samples_to_rgb,
    to_array,
    to_rgb,
    turned,
)

_KINDS = {"I;16": "uint16", "I": "int32", "F": "float32"}  # of Pillow's modes of more than 8 bits

NO_MEMORY = "too large for the memory"
"""The reason for a MemoryError."""

_TRUNCATED = "truncated"
NO_IMAGE = "not an image"
"""The reason where nothing says what else it could be."""

_MAX_PREVIEW = 2**27  # bytes: the pixels of one of 40 million

_MOST_REDUCED = 2**29
"""Pixels of a JPEG that is decoded at a part of its size: cameras of phones make 200 million. Coefficients of a
progressive one are held at full size, so it has Pillow's limit."""


class UnreadableError(Exception):
    """An image cannot be read; the message is the reason in a few words."""


class Budget:
    """Memory that images in decoding share: those that would exceed it wait, but one is always decoded."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._used = 0
        self._free = Condition()

    @contextlib.contextmanager
    def of(self, n_bytes: int) -> Iterator[None]:
        """Hold this many bytes; waits while others leave too little."""
        with self._free:
            self._free.wait_for(lambda: self._used == 0 or self._used + n_bytes <= self._n_bytes)
            self._used += n_bytes
        try:
            yield
        finally:
            with self._free:
                self._used -= n_bytes
                self._free.notify_all()


_budget = Budget(2**29)
_BYTES, _BYTES_DEEP, _BYTES_COEFFICIENTS = 8, 16, 6
"""Memory per pixel: an image of up to 4 channels beside its RGB; samples of many bits beside their copies; libjpeg's
coefficients of a progressive JPEG, which it holds at full size whatever the size asked for."""

Use = TypeVar("Use")


def decode(data: bytes, size: int | None = None, scale: Scale | None = None) -> UInt8[np.ndarray, "3 h w"]:
    """Decode an image file to RGB: its first frame, upright, transparency on white, samples of many bits scaled.

    With ``size``, the short side is resized to that many pixels (antialiased) and the central square is cropped.

    Raises:
        UnreadableError: the data is not an image, is damaged, or has so many pixels by its header (Pillow's limit, 179
            million) that it may be a decompression bomb.
    """
    # From 3 × the size on, the loss of a reduced JPEG is invisible.
    rgb = open_rgb(data, None if size is None else 3 * size, scale)
    return to_array(rgb if size is None else centre_square(rgb, size))


def open_rgb(data: bytes, min_side: int | None = None, scale: Scale | None = None) -> Image.Image:
    """Decode an image file as ``decode`` does, to a Pillow image; ``min_side`` as in ``open_noted``.

    Raises:
        UnreadableError: as in ``decode``.
    """
    return open_noted(data, min_side, scale)[0]


def open_noted(data: bytes, min_side: int | None = None, scale: Scale | None = None) -> tuple[Image.Image, str]:
    """Decode an image file to a Pillow image in mode RGB, and say in a note what of it is missing ("": nothing).

    Args:
        data: the file.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as long as both sides
            keep that many pixels.
        scale: range of samples of more than 8 bits; by default each image's own.

    Raises:
        UnreadableError: as in ``decode``. This is where every failure of Pillow, such as on a truncated JPEG, becomes a
            reason.
    """
    if not data:
        raise UnreadableError("empty file")
    try:
        return _open(data, min_side, scale or Scale())
    except UnreadableError:
        raise
    except (tiff_tags.UnsupportedTiffError, tiff.MissingReaderError) as error:
        raise UnreadableError(str(error)) from error
    except ImportError as error:
        raise UnreadableError(f"the package that reads it cannot be imported: {error}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError("too many pixels, perhaps a decompression bomb") from error
    except UnidentifiedImageError as error:
        raise UnreadableError(_reason_unidentified(data)) from error
    except MemoryError as error:
        raise UnreadableError(NO_MEMORY) from error
    except Exception as error:  # depends on the format: SyntaxError, struct.error, EOFError
        raise UnreadableError(
            _TRUNCATED if _lacks_bytes(error) else f"damaged: {' '.join(str(error).split())}"
        ) from error


def is_shallow(head: bytes) -> bool:
    """Tell by the first 32 bytes of a file that its samples have 8 bits at most, or a range that the file states."""
    if head[:4] in (b"RIFF", b"GIF8") or head[:3] == JPEG or head[:2] in (b"BM", b"P4", b"P5", b"P6"):
        return True
    return head[4:8] == b"ftyp" or 0 < png_depth(head) <= 8


def samples_of(data: bytes) -> Samples | None:
    """Read the samples of an image whose range its source decides; None: it has 8 bits, states its own, or is damaged.

    Of an image of 8 bits no more than the header is read.
    """
    if not data or is_shallow(data[:32]):
        return None
    with contextlib.suppress(Exception):  # it is reported when the image is read to be shown
        if _deep_kind(data):
            found = _opened(data, None, lambda opened, _turn: opened)
            return found if isinstance(found, Samples) and found.stated is None else None
    return None


def _deep_kind(data: bytes) -> str:
    """Type of the samples of an image of more than 8 bits, by its header; "" for others."""
    kind = _readable_kind(data)
    if kind is RAW:
        return ""
    if tiff_tags.is_tiff(data):
        return tiff_tags.layout_of(data).kind
    if png_depth(data) > 8:
        return "uint16"
    if (opener := plugins.opener_of(kind)) is not None:
        return opener(data).kind
    with Image.open(BytesIO(data), formats=_formats_of(data)) as image:
        return next((each for mode, each in _KINDS.items() if image.mode.startswith(mode)), "")


def _open(data: bytes, min_side: int | None, scale: Scale) -> tuple[Image.Image, str]:
    def shown(opened: Image.Image | Samples, turn: int) -> tuple[Image.Image, str]:
        if isinstance(opened, Samples):
            return turned(samples_to_rgb(opened, scale), turn), clipping_note(opened, scale)
        return turned(to_rgb(opened), turn), ""

    def with_loss(opened: Image.Image | Samples, turn: int) -> tuple[Image.Image, float]:
        return shown(opened, turn)[0], 0.0 if isinstance(opened, Samples) else lost_share(opened)

    try:
        if not is_shallow(data[:32]) and (kind := _deep_kind(data)):
            scale.settle(kind)
        return _opened(data, min_side, shown)
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        found = _despite(
            error,
            data,
            lambda copy: _opened(copy, min_side, shown),
            lambda copy: _opened(copy, min_side, with_loss),
        )
        if found is None:
            raise
        return found


def _despite(
    error: Exception,
    data: bytes,
    opened: Callable[[bytes], tuple[Image.Image, str]],
    with_loss: Callable[[bytes], tuple[Image.Image, float]],
) -> tuple[Image.Image, str] | None:
    """Take an image of which only what is beside its pixels is wrong, or a JPEG that lacks its last bytes; else None.

    Raises:
        UnreadableError: it lacks too many.
    """
    if _lacks_bytes(error) and data.startswith(JPEG):
        return _truncated(data, with_loss)
    bare = repaired(data)
    if bare is None:
        return None
    try:
        return opened(bare)
    except Exception as second:  # of other failures, the first reason says more
        return _truncated(bare, with_loss) if _lacks_bytes(second) and bare.startswith(JPEG) else None


def _truncated(data: bytes, opened: Callable[[bytes], tuple[Image.Image, float]]) -> tuple[Image.Image, str]:
    """Take a JPEG that lacks its last bytes, unless too many of its rows are missing.

    Args:
        data: the file.
        opened: makes an image of the whole of one, and the share of its rows that are missing.
    """
    whole = True
    try:
        image, lost = opened(ended(data))
    except Exception:
        if (before := before_open_segment(data)) is None:
            raise
        (image, lost), whole = opened(ended(before)), False
    with contextlib.suppress(Exception):
        if whole and all(opened(ended(data, filler))[0].tobytes() == image.tobytes() for filler in FILLERS):
            return image, ""  # nothing but the end mark is missing, though its last rows may be plain grey
    if lost > LOST:
        raise UnreadableError(_TRUNCATED)
    if lost > 0:
        return image, f"kept although truncated: {max(1, round(100 * lost))} % of its rows are missing"
    return image, "kept although truncated: it lacks its last bytes"


def _lacks_bytes(error: Exception) -> bool:
    return "truncated" in str(error).lower()


def _opened(data: bytes, min_side: int | None, use: Callable[[Image.Image | Samples, int], Use]) -> Use:
    """Return what ``use`` makes of the samples, or of the image, and its orientation, while its memory is held."""
    kind = _readable_kind(data)
    if kind is RAW:
        return _by_preview(data, min_side, use)
    if (opener := plugins.opener_of(kind)) is not None:
        return _by_plugin(opener(data), data, use)
    return _by_tiff(data, min_side, use) if tiff_tags.is_tiff(data) else _by_pillow(data, min_side, None, use)


def _by_tiff(data: bytes, min_side: int | None, use: Callable[[Image.Image | Samples, int], Use]) -> Use:
    layout = tiff_tags.layout_of(data)
    tiff_tags.check_size(layout, len(data))
    if tiff.reader_of(layout) == "pillow":
        try:
            return _by_pillow(data, min_side, layout, use)
        except (Image.DecompressionBombError, MemoryError):
            raise
        except Exception as error:
            if not (layout.may_lack_codec or isinstance(error, UnidentifiedImageError)):
                raise
            try:
                return _by_tifffile(data, layout, use)
            except tiff.MissingReaderError:
                if layout.may_lack_codec:
                    raise
            except Exception:
                pass
            raise
    try:
        return _by_tifffile(data, layout, use)
    except tiff.MissingReaderError:
        if not layout.is_plain_color:
            raise
        return _by_pillow(data, min_side, layout, use)


def _readable_kind(data: bytes) -> Kind | None:
    """Tell what an image is by its content; None: perhaps a kind without a mark of its own.

    Raises:
        UnreadableError: it is not an image, or one that is not read here.
    """
    kind = kind_of_content(data[:HEAD])
    if tiff_tags.is_tiff(data) and plugins.is_raw_tiff(data):
        kind = RAW
    if kind is not None and not kind.is_read:
        raise UnreadableError(NO_IMAGE if kind.role == "plain" else kind.refusal)
    return kind


def _by_preview(data: bytes, min_side: int | None, use: Callable[[Image.Image | Samples, int], Use]) -> Use:
    """Use the picture beside the samples of a camera's sensor, turned like these unless it has its own orientation."""
    with _budget.of(len(data) + _MAX_PREVIEW):
        preview, turn = plugins.raw_preview(data)
    if isinstance(preview, Image.Image):
        return use(preview, turn)
    return _by_pillow(preview, min_side, None, lambda image, own: use(image, own if own != 1 else turn))


def _by_plugin(opened: plugins.Opened, data: bytes, use: Callable[[Image.Image | Samples, int], Use]) -> Use:
    n_pixels = opened.width * opened.height
    _check_size(n_pixels)
    with _budget.of(n_pixels * (_BYTES_DEEP if opened.kind else _BYTES)):
        image = opened.read()
        if isinstance(image, Samples):
            return use(image, 1)
        return use(interpret(image, data, None, None), orientation_of(image))


def _check_size(n_pixels: int) -> None:
    """Raise a DecompressionBombError for more pixels than Pillow opens."""
    if Image.MAX_IMAGE_PIXELS is not None and n_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError


def _by_tifffile(data: bytes, layout: tiff_tags.Layout, use: Callable[[Image.Image | Samples, int], Use]) -> Use:
    n_pixels = layout.width * layout.height
    _check_size(n_pixels)
    with _budget.of(n_pixels * _BYTES_DEEP * max(1, layout.n_samples)):
        return use(tiff.read_with_tifffile(data, layout), layout.orientation)


def _by_pillow(
    data: bytes, min_side: int | None, layout: tiff_tags.Layout | None, use: Callable[[Image.Image | Samples, int], Use]
) -> Use:
    image, n_pixels = _headed(data, min_side)
    with image:
        deep = image.mode[0] in "IF" or png_depth(data) > 8
        bytes_each = _BYTES_DEEP if deep else _BYTES
        held = image.width * image.height * bytes_each
        if image.info.get("progressive"):
            held += n_pixels * _BYTES_COEFFICIENTS
        with _budget.of(held):
            largest = largest_of_ppm(image)
            image.load()  # afterwards nothing of the orientation is left that a plugin has applied by itself
            return use(interpret(image, data, layout, largest), orientation_of(image))


def _headed(data: bytes, min_side: int | None) -> tuple[Image.Image, int]:
    """Open an image by its header, to be decoded at a part of its size if it may, and say how many pixels it has."""
    formats = _formats_of(data)
    try:
        image = Image.open(BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        if min_side is None or formats != ("JPEG",):
            raise
        image = JpegImageFile(BytesIO(data))
    n_pixels = image.width * image.height
    if min_side is not None:
        image.draft(None, (min_side, min_side))
    _check_size(n_pixels if n_pixels > _MOST_REDUCED or image.info.get("progressive") else image.width * image.height)
    return image, n_pixels


def _formats_of(data: bytes) -> tuple[str, ...]:
    """The format that Pillow opens an image as: no other, since some of its plugins start programs (EPS)."""
    kind = kind_of_content(data[:HEAD]) or TGA  # which has no mark of its own
    plugins.prepare(kind)
    return (kind.reader,)


def _reason_unidentified(data: bytes) -> str:
    """Tell images that are damaged, or of a pixel format that is not supported, from other data."""
    kind = kind_of_content(data[:HEAD])
    if kind is None:
        return NO_IMAGE
    remedy = f": {kind.remedy}" if kind.remedy else ""
    return damaged(kind, f"an unsupported pixel format{remedy}")
