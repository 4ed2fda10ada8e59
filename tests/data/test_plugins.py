"""Images that packages of the extra formats read, what is said without them, and large JPEGs."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shoal.data import kinds, to_images
from shoal.data.content import HEAD, kind_of_content
from shoal.data.decode import UnreadableError, decode, open_rgb
from shoal.data.kinds import kind_of_name
from shoal.data.plugins import size_of_jpeg_xl

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import corpus

CONTAINERS = ("HEIF", "JPEG XL", "DICOM", "DNG", "JPEG2000", "QOI", "TGA", "DIB", "PCX", "SGI", "DDS")
KINDS = [kind for kind in corpus.kinds() if kind.container in CONTAINERS]


@pytest.fixture
def bare(monkeypatch):
    """A machine without the packages of the extra formats."""
    monkeypatch.setattr(kinds, "_is_installed", lambda _package: False)
    monkeypatch.setattr("shoal.data.cache.readers", lambda: ())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_they_show_what_was_written(kind):
    pixels = decode(kind.encode()).transpose(1, 2, 0).astype(int)
    if kind.right is None:
        assert pixels.std() > 20
    else:
        assert pixels.shape == kind.right.shape
        assert np.abs(pixels - kind.right).mean() <= kind.tolerance


def a(container):
    return next(kind for kind in KINDS if kind.container == container)


@pytest.mark.parametrize(
    ("container", "name"), [("HEIF", "HEIC"), ("JPEG XL", "JPEG XL"), ("DICOM", "DICOM"), ("DNG", "camera raw")]
)
@pytest.mark.parametrize("suffix", [None, ".jpg", ""])
@pytest.mark.usefixtures("bare")
def test_without_the_package_it_is_said_how_to_read_them(tmp_path, paint, container, name, suffix, monkeypatch):
    kind = a(container)
    paint(tmp_path / "a.png", size=(48, 36))
    path = tmp_path / f"b{kind.suffix if suffix is None else suffix}"
    path.write_bytes(kind.encode())
    if suffix is None:  # it is not read to its end, however large it is
        read = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda file: pytest.fail("read") if file == path else read(file))
    found = to_images(tmp_path)
    said = {**found.skipped, **found.others.reasons}
    assert said == {path.name: f"{name}: pip install 'shoal[formats]'"}


@pytest.mark.usefixtures("bare")
def test_a_jpeg_under_the_name_of_a_kind_that_is_not_read(tmp_path, paint):
    paint(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.heic")
    (tmp_path / "b.nef").write_bytes((tmp_path / "a.heic").read_bytes())
    assert to_images(tmp_path).ids == ["a.heic", "b.nef"]


def test_another_package_is_another_cache(tmp_path, paint, monkeypatch):
    paint(tmp_path / "a.png", size=(48, 36))
    (tmp_path / "b.heic").write_bytes(a("HEIF").encode())
    with monkeypatch.context() as without:
        without.setattr(kinds, "_is_installed", lambda _package: False)
        without.setattr("shoal.data.cache.readers", lambda: ())
        assert to_images(tmp_path).ids == ["a.png"]
    assert to_images(tmp_path).ids == ["a.png", "b.heic"]


JUNK = {
    "AVIF": b"\0\0\0\x20ftypmif1\0\0\0\0miafavifMA1B",
    "HEIC": b"\0\0\0\x18ftypheim\0\0\0\0heim",
    "camera raw": b"\0\0\0\x18ftypcrx \0\0\0\1crx ",
    "video": b"\0\0\0\x18ftypisom\0\0\2\0isom",
    "JPEG XL": b"\xff\x0a",
    "JPEG 2000": b"\xff\x4f\xff\x51",
    "PSD": b"8BPS\0\1",
    "editor's file": b"8BPS\0\2",
    "PDF": b"%PDF-1.7\n",
    "OpenEXR": b"v/1\1",
    "document": b"\xd0\xcf\x11\xe0",
    "archive": b"PK\3\4",
}


@pytest.mark.parametrize("name", JUNK)
def test_known_kinds_are_called_by_their_names_whatever_is_wrong_with_them(name):
    data = JUNK[name].ljust(80, b"\0")
    assert kind_of_content(data).name == name
    with pytest.raises(UnreadableError) as caught:
        decode(data)
    assert str(caught.value) != "not an image"


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>", b"{}", b"words", bytes(600), b"ID3", b"\x7fELF", b"\1\0\1"])
def test_what_is_no_image_is_called_so(data):
    with pytest.raises(UnreadableError, match=r"^not an image$"):
        decode(data)


def test_every_suffix_has_one_kind():
    suffixes = [suffix for kind in kinds.KINDS for suffix in kind.suffixes.split()]
    assert len(suffixes) == len(set(suffixes))
    for name in ("a.JPG", "x/y.b.Nef", "thumbs.DB", "p/desktop.ini", "a.tar.gz"):
        assert kind_of_name(name) is not None, name
    assert kind_of_name("jpg") is None
    assert kind_of_name(".jpg") is None


def test_no_beginning_of_a_file_confuses_the_kinds():
    """Every prefix of every kind is told or not, without an error."""
    heads = [kind.encode()[:HEAD] for kind in KINDS[::5]] + [data.ljust(40, b"\0") for data in JUNK.values()]
    for head in heads:
        for end in (*range(40), len(head)):
            kind_of_content(head[:end])


# --- sizes ---


@pytest.mark.parametrize("size", [(8, 8), (64, 256), (1, 1), (17, 300), (1024, 768), (513, 257), (9000, 3)])
@pytest.mark.parametrize("boxes", [False, True])
def test_the_size_of_a_jpeg_xl_is_known_from_its_header(size, boxes):
    import imagecodecs

    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    data = imagecodecs.jpegxl_encode(pixels, effort=1, lossless=True, usecontainer=boxes)
    assert size_of_jpeg_xl(data) == size


def test_a_jpeg_xl_that_says_it_is_huge_is_not_decoded():
    bits = 0 | 3 << 1 | (2**30 - 1) << 3 | 0 << 33 | 3 << 36 | (2**30 - 1) << 38
    data = b"\xff\x0a" + struct.pack("<Q", bits & (2**64 - 1)) + bytes(60)
    assert size_of_jpeg_xl(data)[1] == 2**30
    with pytest.raises(UnreadableError, match="decompression bomb"):
        decode(data)


def photo(progressive=False, container="JPEG"):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((400, 300)).convert("RGB").save(file, container, progressive=progressive)
    return file.getvalue()


def test_a_jpeg_of_many_pixels_is_read_at_a_part_of_its_size(monkeypatch):
    """As those of 200 million that phones make; here the limit is lowered instead."""
    whole = np.asarray(open_rgb(photo()).resize((50, 38)), int)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow refuses more than twice as many
    small = open_rgb(photo(), 20)
    assert small.size == (50, 38)
    assert np.abs(np.asarray(small, int) - whole).mean() < 3
    assert decode(photo(), 10).shape == (3, 10, 10)
    for data, side in ((photo(), None), (photo(), 200), (photo(progressive=True), 20), (photo(container="PNG"), 20)):
        with pytest.raises(UnreadableError, match="decompression bomb"):
            open_rgb(data, side)
    monkeypatch.setattr("shoal.data.decode._MOST_REDUCED", 100_000)
    with pytest.raises(UnreadableError, match="decompression bomb"):
        open_rgb(photo(), 20)


# --- camera raw and DICOM ---


def test_a_raw_file_is_not_taken_for_the_tiff_that_it_is():
    from shoal.data.plugins import is_raw_tiff

    assert is_raw_tiff(a("DNG").encode())
    for kind in corpus.kinds():
        if kind.container == "TIFF" and kind.tag in ("Pillow raw", "u1 none", "ImageJ", "OME"):
            assert not is_raw_tiff(kind.encode()), kind.name


def test_only_a_jpeg_is_used_as_the_preview_of_a_raw_file():
    """Of pixels, rawpy believes the size in the header, and a damaged one ends the process."""
    squeezed, plain = (kind for kind in KINDS if kind.container == "DNG" and kind.suffix == ".dng")
    assert decode(squeezed.encode()).shape == (3, 120, 160)
    assert decode(plain.encode()).shape == (3, 72, 96)  # half of the sensor's 192 × 144


def test_a_window_of_dicom_is_what_is_shown():
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_modality_lut, apply_windowing

    kind = next(kind for kind in KINDS if kind.container == "DICOM" and kind.bits == 12)
    found = dcmread(io.BytesIO(kind.encode()))
    found.WindowCenter, found.WindowWidth = [900, 40], [1800, 80]
    found.RescaleSlope, found.RescaleIntercept = 1, -1024
    file = io.BytesIO()
    found.save_as(file)
    right = apply_windowing(apply_modality_lut(found.pixel_array, found), found)
    right = (right + 1024) / 4095 * 255  # shown from the least to the largest value that 12 bits can mean
    assert right.std() > 50
    assert np.abs(decode(file.getvalue())[0] - right).max() <= 1


@pytest.mark.slow
def test_every_file_of_the_corpus_is_accounted_for(tmp_path):
    import corpora

    written = corpus.write_corpus(tmp_path)
    assert len(written) >= 300
    found = corpora.account(tmp_path, 32)
    assert found["files"] == len(written)
    assert found["ignored"] == 0
    assert found["kept"] >= 0.95 * len(written)
