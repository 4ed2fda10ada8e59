"""The kinds that need a plugin to be read: HEIC, JPEG XL, DICOM and raw files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from corpus_kind import (
    HEIGHT,
    LOSSY,
    TURNED,
    WIDTH,
    Kind,
    coded,
    exif,
    grey,
    image_of,
    named,
    rgb,
    shows_of,
    stored,
    values_of,
)


def _heif() -> Iterator[Kind]:
    def coded(image: Image.Image, **options: Any) -> bytes:
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(image).save(file, **options)
        return file.getvalue()

    for mode in ("L", "RGB", "RGBA"):
        for suffix in (".heic", ".heif", ".HEIC"):

            def encode(mode: str = mode) -> bytes:
                return coded(image_of(mode), quality=95)

            yield Kind("HEIF", mode, 8, named(suffix), suffix, encode, shows_of(mode), LOSSY, needs="pillow_heif")
    for orientation in TURNED:

        def turned(orientation: int = orientation) -> bytes:
            return coded(stored(image_of("RGB"), orientation), quality=95, exif=exif(orientation))

        tag = f"orientation {orientation}"
        yield Kind("HEIF", "RGB", 8, tag, ".heic", turned, "colour", LOSSY, needs="pillow_heif")

    def deep() -> bytes:
        import pillow_heif

        file = io.BytesIO()
        data = rgb(16).astype("<u2").tobytes()
        pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), data).save(file, quality=95)
        return file.getvalue()

    yield Kind("HEIF", "RGB", 10, "deep", ".heic", deep, "colour", LOSSY, needs="pillow_heif")


def _jpeg_xl() -> Iterator[Kind]:
    for mode in ("L", "RGB", "RGBA"):
        for level in (None, 90):

            def encode(mode: str = mode, level: int | None = level) -> bytes:
                import imagecodecs

                lossless: dict[str, Any] = {"lossless": True} if level is None else {"level": level}
                return bytes(imagecodecs.jpegxl_encode(values_of(mode, 8), **lossless))

            tag = "lossless" if level is None else "lossy"
            yield Kind("JPEG XL", mode, 8, tag, ".jxl", encode, shows_of(mode), LOSSY)
    for mode in ("L", "RGB"):
        yield coded("JPEG XL", mode, 16, "lossless", ".jxl", "jpegxl_encode", lossless=True)
    yield coded("JPEG XL", "RGB", 8, "in boxes", ".jxl", "jpegxl_encode", lossless=True, usecontainer=True)


def _dicom() -> Iterator[Kind]:
    for bits, used in ((8, 8), (16, 12), (16, 16)):
        for photometric in ("MONOCHROME2", "MONOCHROME1"):

            def encode(bits: int = bits, used: int = used, photometric: str = photometric) -> bytes:
                values = grey(used)
                return _dcm(values if photometric == "MONOCHROME2" else 2**used - 1 - values, bits, used, photometric)

            tag = f"{photometric} {used} of {bits} bits"
            yield Kind("DICOM", "L", used, tag, ".dcm", encode, "grey", LOSSY, needs="pydicom")
    yield Kind("DICOM", "RGB", 8, "RGB", ".dcm", lambda: _dcm(rgb(), 8, 8, "RGB"), "colour", needs="pydicom")
    yield Kind("DICOM", "RGB", 8, "no suffix", "", lambda: _dcm(rgb(), 8, 8, "RGB"), "colour", needs="pydicom")

    def stack() -> bytes:
        return _dcm(np.stack([grey(12)] * 3), 16, 12, "MONOCHROME2")

    yield Kind("DICOM", "L", 12, "three frames", ".dcm", stack, "grey", LOSSY, needs="pydicom")


def _dcm(values: Shaped[np.ndarray, "..."], allocated: int, used: int, photometric: str) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["shoal"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    found = FileDataset(file, {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colour = photometric == "RGB"
    found.Rows, found.Columns = HEIGHT, WIDTH
    found.SamplesPerPixel, found.PhotometricInterpretation = 3 if colour else 1, photometric
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = allocated, used, used - 1, 0
    if colour:
        found.PlanarConfiguration = 0
    if values.ndim == 3 and not colour:
        found.NumberOfFrames = len(values)
    found.PixelData = values.astype("<u2" if allocated == 16 else "u1").tobytes()
    found.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _raw() -> Iterator[Kind]:
    """Raw files as a camera leaves them: a mosaic of one colour per pixel, and a JPEG to look at."""

    def encode(squeezed: bool = True) -> bytes:
        import tifffile

        file = io.BytesIO()
        preview = np.asarray(image_of("RGB").resize((160, 120)))
        mosaic = grey(12).repeat(4, 0).repeat(4, 1)
        maker = [(271, "s", 0, "shoal", True), (272, "s", 0, "made", True), (50708, "s", 0, "shoal made", True)]
        version = (50706, "B", 4, b"\x01\x04\x00\x00", True)
        matrix = [v for x in np.eye(3).ravel() for v in (int(x * 10000), 10000)]
        with tifffile.TiffWriter(file, byteorder="<") as writer:
            how: dict[str, Any] = {"photometric": "rgb"}
            if squeezed:
                how = {"photometric": "ycbcr", "compression": "jpeg"}
            tags = [*maker, version, (50721, "2i", 9, matrix, True)]
            writer.write(preview, subfiletype=1, subifds=1, metadata=None, extratags=tags, **how)
            cfa = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, b"\x00\x01\x01\x02", True)]
            writer.write(mosaic, photometric="cfa", metadata=None, extratags=cfa, subfiletype=0)
        return file.getvalue()

    for suffix in (".dng", ".DNG"):
        yield Kind("DNG", "raw", 12, f"preview {named(suffix)}", suffix, encode, "unknown")
    yield Kind("DNG", "raw", 12, "preview without compression", ".dng", lambda: encode(squeezed=False), "unknown")


FAMILIES: tuple[Callable[[], Iterator[Kind]], ...] = (_heif, _jpeg_xl, _dicom, _raw)
"""Each iterates over the kinds of a container."""
