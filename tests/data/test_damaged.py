"""Files whose pixels are whole although something else is not, and files that hold anything at all."""

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tests.packing import write_tar, write_zip
from tests.pictures import shard

from shoal.data import kinds, tiff, tiff_tags, to_images
from shoal.data.decode import UnreadableError, decode, open_noted
from shoal.data.repair import lost_share, repaired

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).resize(
    (300, 200), Image.Resampling.BICUBIC
)


def encoded(kind, image=PICTURE, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_text(put):
    info = PngImagePlugin.PngInfo()
    put(info)
    return encoded("PNG", pnginfo=info)


def chunk(kind, body, crc=None):
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def with_chunk(extra):
    data = encoded("PNG")
    return data[:33] + extra + data[33:]


WHOLE = {
    "zTXt": lambda: with_text(lambda info: info.add_text("workflow", "x" * 2_000_000, zip=True)),
    "iTXt": lambda: with_text(lambda info: info.add_itxt("XML:com.adobe.xmp", "y" * 2_000_000, zip=True)),
    "many texts": lambda: with_text(lambda info: [info.add_text(f"k{i}", "z" * 900_000, zip=True) for i in range(90)]),
    "iCCP": lambda: encoded("PNG", icc_profile=bytes(1_200_000)),
    "iCCP of rubbish": lambda: with_chunk(chunk(b"iCCP", b"name\0\0" + b"rubbish")),
    "checksum of a text": lambda: with_chunk(chunk(b"tEXt", b"a\0b", crc=1)),
    "checksum of eXIf": lambda: with_chunk(chunk(b"eXIf", b"MM\0*", crc=1)),
    "eXIf of rubbish": lambda: with_chunk(chunk(b"eXIf", b"II*\0\xff\xff\xff\xff" + bytes(9))),
    "short chunks": lambda: with_chunk(chunk(b"gAMA", b"") + chunk(b"cHRM", b"1") + chunk(b"pHYs", b"")),
    "no IEND": lambda: encoded("PNG")[:-12],
    "half an IEND": lambda: encoded("PNG")[:-5],
    "no checksum of the pixels": lambda: encoded("PNG")[:-16],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_png_is_read_whatever_is_beside_its_pixels(kind):
    assert np.array_equal(decode(WHOLE[kind]()).transpose(1, 2, 0), np.asarray(PICTURE))


def test_a_png_that_lacks_pixels_is_refused():
    data = encoded("PNG")
    with pytest.raises(UnreadableError, match="truncated"):
        decode(data[: len(data) - 400])


def test_what_a_repair_keeps():
    grey = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    data = encoded("PNG", grey, transparency=7)[:-5]
    assert decode(data)[0, 0, 7] == 255
    for mode in ("L", "RGB", "CMYK"):
        image = PICTURE.convert(mode)
        whole = encoded("JPEG", image, exif=b"Exif\0\0MM\0*" + bytes(30), comment=b"hello")
        assert np.array_equal(decode(repaired(whole)), decode(whole))
    assert repaired(b"BM") is None


MALFORMED = [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 99]
MALFORMED += [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" * 9]  # more tags than there are
MALFORMED += [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02ab\0\0\0\0\0\0"]  # an orientation of text


@pytest.mark.parametrize("exif", MALFORMED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_is_no_reason(kind, exif):
    plain = decode(encoded(kind, quality=90) if kind != "PNG" else encoded(kind))
    if kind == "JPEG":
        data = encoded(kind, quality=90)
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:]
    elif kind == "PNG":
        data = with_chunk(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    else:
        data = encoded(kind, quality=90, exif=exif)
    assert np.array_equal(decode(data), plain)


@pytest.mark.parametrize("exif", [b"\xff" * 99, b"II*\0" + b"\xff" * 99, b""])
def test_malformed_exif_in_an_avif_is_no_reason(exif):
    good = Image.Exif()
    good[0x0110] = "a camera with a name"
    data = encoded("AVIF", exif=good)
    payload = good.tobytes().removeprefix(b"Exif\0\0")
    assert data.count(payload) == 1
    hurt = data.replace(payload, exif[: len(payload)].ljust(len(payload), b"\0"))
    assert np.array_equal(decode(hurt), decode(data))


def test_a_bad_profile_or_index_in_a_jpeg_is_no_reason():
    data = encoded("JPEG")
    for marker, body in (
        (0xE2, b"ICC_PROFILE\0\1\1rubbish"),
        (0xE2, b"MPF\0II*\0\xff\xff"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM" * 9),
    ):
        segment = bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body
        assert np.array_equal(decode(data[:2] + segment + data[2:]), decode(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_whole(progressive):
    data = encoded("JPEG", quality=92, progressive=progressive)
    for size in (None, 40):
        shown = decode(data[:-2], size)
        assert np.array_equal(shown, decode(data, size))
    assert open_noted(data[:-2])[1] == ""


LACKS = "kept although truncated: it lacks its last bytes"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_lacks_less_than_a_row_has_a_note_unless_its_pixels_are_whole(mode, options):
    data = encoded("JPEG", PICTURE.convert(mode), quality=92, **options)
    for size in (None, 40):
        assert [open_noted(data[:-lost], size)[1] for lost in (1, 2)] == ["", ""]
        assert {open_noted(data[:-lost], size)[1] for lost in (12, 30, 60)} == {LACKS}


def test_a_jpeg_that_lacks_some_rows_is_kept_with_a_note(tmp_path, caplog):
    data = encoded("JPEG", quality=92)
    cut = data[: int(0.9 * len(data))]
    image, note = open_noted(cut)
    lost = lost_share(image)
    assert 0.01 < lost < 0.2
    assert note == f"kept although truncated: {round(100 * lost)} % of its rows are missing"
    kept = int(200 * (1 - lost)) - 32  # the row of blocks that was cut, and half a block that is smoothed into it
    assert np.abs(decode(cut)[:, :kept].astype(int) - decode(data)[:, :kept]).max() <= 2
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "cut.jpg").write_bytes(cut)
    found = to_images(tmp_path)
    assert len(found) == 2
    assert dict(found.skipped) == {}
    assert dict(found.notes) == {"cut.jpg": note}
    assert dict(to_images(tmp_path).notes) == {"cut.jpg": note}  # from the cache
    assert f"1 image lacks a part: cut.jpg ({note})" in caplog.text


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_a_jpeg_that_lacks_more_is_refused(share):
    data = encoded("JPEG", quality=92)
    with pytest.raises(UnreadableError, match=r"^truncated$|^not an image$"):
        decode(data[: int(share * len(data))])


def test_a_grey_border_at_the_bottom_is_no_loss_in_a_whole_file():
    values = np.asarray(PICTURE).copy()
    values[100:] = 128
    assert open_noted(encoded("JPEG", Image.fromarray(values)))[1] == ""


FUZZ = """
import io, resource, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from shoal.data.decode import UnreadableError, decode, samples_of
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
rng = np.random.default_rng(int(sys.argv[1]))
image = Image.fromarray(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8))
files = []
for kind, mode, options in [
    ("JPEG", "RGB", {}), ("JPEG", "CMYK", {"progressive": True}), ("PNG", "RGBA", {}), ("PNG", "P", {}),
    ("PNG", "I;16", {}), ("GIF", "P", {}), ("BMP", "RGB", {}), ("WEBP", "RGBA", {}), ("AVIF", "RGB", {}),
    ("PPM", "RGB", {}), ("TIFF", "RGB", {}), ("TIFF", "LAB", {}), ("TIFF", "I;16", {}), ("TIFF", "F", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
]:
    if mode in ("I;16", "F"):
        one = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16 if mode == "I;16" else np.float32))
    elif mode == "LAB":
        one = Image.frombytes("LAB", image.size, image.tobytes())
    else:
        one = image if mode == "RGB" else image.convert("RGBA").convert(mode)
    file = io.BytesIO(); one.save(file, kind, **options); files.append(file.getvalue())
try:
    import tifffile, imagecodecs
    rgb = np.asarray(image).astype(np.uint16) * 257
    packed = [{"compression": name, "predictor": True} for name in ("lzw", "zlib", "lzma", "zstd")]
    for options in ({"planarconfig": "separate"}, *packed):
        file = io.BytesIO(); v = np.moveaxis(rgb, -1, 0) if "planarconfig" in options else rgb
        tifffile.imwrite(file, v, photometric="rgb", **options); files.append(file.getvalue())
except ImportError:
    pass
slowest = 0.0
for n in range(int(sys.argv[2])):
    data = np.frombuffer(files[n % len(files)], np.uint8).copy()
    where = rng.integers(0, len(data) if n % 2 else min(len(data), 400), rng.integers(1, 12))
    data[where] = rng.integers(0, 256, len(where)) if n % 3 else rng.choice([0, 1, 255, 127, 128], len(where))
    hurt = data.tobytes()[: rng.integers(1, len(data) + 1)] if n % 5 == 0 else data.tobytes()
    start = time.perf_counter()
    try:
        assert decode(hurt).shape[0] == 3
    except UnreadableError as error:
        assert "\\n" not in str(error)[:1]
    samples_of(hurt)
    slowest = max(slowest, time.perf_counter() - start)
print(round(slowest, 2), peak())
"""


@pytest.mark.slow
def test_fuzzed_files_neither_crash_nor_hang_nor_fill_the_memory():
    """In a process of its own with 6 GB of addresses; for other files than usual, SHOAL_FUZZ_SEED=number."""
    command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", FUZZ, os.environ.get("SHOAL_FUZZ_SEED", "0")]
    done = subprocess.run([*command, "20000"], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    slowest, peak = map(float, done.stdout.split())
    assert slowest < 10
    assert peak < 3000


BROKEN = {f"a.{suffix}": b"\x81\x03" * 2000 for suffix in ("heic", "avif", "jxl", "dcm", "nef", "png")}


@pytest.mark.parametrize("without", [False, True])
def test_a_broken_image_is_called_the_same_wherever_it_is(tmp_path, monkeypatch, without):
    if without:  # the packages of the extra formats
        monkeypatch.setattr(kinds, "_is_installed", lambda _package: False)
        monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    files = {"whole.png": encoded("PNG")} | BROKEN
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    expected = dict(to_images(tmp_path / "in").skipped)
    assert expected["a.png"] == "not an image"
    assert expected["a.avif"] == "a damaged AVIF, or no image"
    assert expected["a.heic"] == ("HEIC: pip install 'shoal[formats]'" if without else "a damaged HEIC, or no image")
    (tmp_path / "names.csv").write_text("path\n" + "".join(f"in/{name}\n" for name in files))
    shard(tmp_path / "in.parquet", list(files.values()), paths=list(files))
    packed = [
        write_zip(tmp_path / "in.zip", files),
        *(write_tar(tmp_path / f"in{end}", files) for end in (".tar", ".tar.gz")),
        *(tmp_path / name for name in ("names.csv", "in.parquet")),
    ]
    for path in packed:
        assert {name.rpartition("/")[2]: why for name, why in to_images(path).skipped.items()} == expected, path.name


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_tags_that_two_readers_understand_differently_are_damaged():
    """Pillow stops at a value beyond the file; tifffile goes on, to LZW, whose decoder crashes on damage."""
    tifffile = pytest.importorskip("tifffile")
    file = BytesIO()
    tifffile.imwrite(file, RNG.integers(0, 60000, (24, 36, 3), np.uint16), photometric="rgb", compression="lzw")
    data = bytearray(file.getvalue())
    entry = 10 + 12 * 2
    assert struct.unpack_from("<H", data, entry) == (258,)
    struct.pack_into("<I", data, entry + 8, 2**31)
    layout = tiff_tags.layout_of(bytes(data))
    assert layout.compression != tiff_tags.LZW
    with pytest.raises(tiff_tags.UnsupportedTiffError, match="damaged TIFF tags"):
        tiff.read_with_tifffile(bytes(data), layout)
    with pytest.raises(UnreadableError, match="a damaged TIFF"):
        decode(bytes(data))
