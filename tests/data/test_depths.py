"""Samples of other than 8 bits in JPEG 2000, DICOM and PNG: white is white, and colours are what was written."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from shoal.data.decode import UnreadableError, decode

SIZE = (6, 8)


def shades(bits, channels=3):
    """Samples of every brightness, with white at the bottom right."""
    top = 2**bits - 1
    values = np.rint(np.linspace(0, top, SIZE[0] * SIZE[1] * channels)).reshape(*SIZE, channels)
    values[-1, -1] = top
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def jpeg_2000(values, bits):
    imagecodecs = pytest.importorskip("imagecodecs")
    values = values[..., 0] if values.shape[-1] == 1 else values
    return bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(values), level=0, reversible=True, bitspersample=bits))


def shown(values, bits):
    """The samples as a right reader shows them."""
    values = np.rint(values.astype(float) * (255 / (2**bits - 1))).astype(int)
    return np.broadcast_to(values, (*SIZE, 3)).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("bits", "channels"), [(12, 3), (16, 3), (1, 1), (2, 1), (4, 1), (1, 3), (2, 3), (4, 3), (8, 3)]
)
def test_samples_of_any_depth_in_a_jpeg_2000_reach_from_black_to_white(bits, channels):
    values = shades(bits, channels)
    pixels = decode(jpeg_2000(values, bits))
    assert pixels[:, -1, -1].tolist() == [255, 255, 255]
    assert np.abs(pixels.astype(int) - shown(values, bits)).max() <= 1


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_samples_under_a_full_opacity_keep_their_brightness(bits, channels):
    values = shades(bits, channels)
    opaque = np.full((*SIZE, 1), 2**bits - 1, np.uint16)
    pixels = decode(jpeg_2000(np.concatenate([values, opaque], -1), bits))
    assert np.abs(pixels.astype(int) - shown(values, bits)).max() <= 1


@pytest.mark.parametrize("bits", [4, 12])
def test_what_is_transparent_in_a_jpeg_2000_lies_on_white(bits):
    values = np.zeros((*SIZE, 4), np.uint8 if bits <= 8 else np.uint16)
    values[:, 4:, 3] = 2**bits - 1
    pixels = decode(jpeg_2000(values, bits))
    assert (pixels[:, :, :4] == 255).all()
    assert (pixels[:, :, 4:] == 0).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_a_deep_jpeg_2000_without_its_reader_is_refused_with_the_remedy(bits, monkeypatch):
    data = jpeg_2000(shades(bits), bits)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UnreadableError, match=rf"colours of {bits} bits.*pip install 'shoal\[formats\]'"):
        decode(data)


# --- DICOM ---


def dicom(values, photometric, **tags):
    pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    found = FileDataset(file, {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    found.Rows, found.Columns = values.shape
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, photometric, 0
    found.BitsAllocated = 8 * values.dtype.itemsize
    found.BitsStored = tags.pop("BitsStored", found.BitsAllocated)
    found.HighBit = found.BitsStored - 1
    for name, value in tags.items():
        setattr(found, name, value)
    found.PixelData = values.tobytes()
    found.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("stored", [4, 8])
def test_a_palette_of_16_bits_in_a_dicom_has_its_colours(stored):
    """However few bits its indices have."""
    table = np.array([[0, 0, 0], [65535, 0, 0], [0, 32896, 65535], [65535, 65535, 65535]], np.uint16)
    numbers = np.array([[0, 1], [2, 3]], np.uint8)
    tags = {}
    for name, column in zip(("Red", "Green", "Blue"), table.T, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = column.astype("<u2").tobytes()
    pixels = decode(dicom(numbers, "PALETTE COLOR", BitsStored=stored, **tags)).transpose(1, 2, 0)
    right = [[[0, 0, 0], [255, 0, 0]], [[0, 128, 255], [255, 255, 255]]]
    assert pixels.tolist() == right


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_negative_slope_in_a_dicom_makes_the_large_samples_dark(kind, window, photometric):
    top = int(np.iinfo(kind).max)
    values = np.linspace(0, top, 24).round().astype(kind).reshape(4, 6)
    tags, meant = {"RescaleSlope": -2, "RescaleIntercept": 2 * top}, 2.0 * top - 2.0 * values
    right = meant / (2 * top)
    if window:  # PS3.3, C.11.2.1.2.1
        tags |= {"WindowCenter": top, "WindowWidth": top}
        right = ((meant - (top - 0.5)) / (top - 1) + 0.5).clip(0, 1)
    right = 1 - right if photometric == "MONOCHROME1" else right
    assert np.abs(decode(dicom(values, photometric, **tags)) - 255 * right).max() <= 1


# --- PNG ---


def png_with_a_transparent_colour(values, transparent):
    """A PNG of 16 bits a channel and a chunk tRNS, which Pillow does not write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", struct.pack(">3H", *transparent))]
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("with_reader", [True, False])
def test_the_transparent_colour_of_a_deep_png_is_white(with_reader, monkeypatch):
    if with_reader:
        pytest.importorskip("imagecodecs")
    else:
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
    color = (0x1234, 0x5678, 0x9ABC)
    data = png_with_a_transparent_colour(np.array([[color, (0, 0x8080, 0xFFFF)]], np.uint16), color)
    assert Image.open(io.BytesIO(data)).info["transparency"] == color
    assert decode(data)[:, 0].T.tolist() == [[255, 255, 255], [0, 128, 255]]
