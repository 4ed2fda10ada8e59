"""Decoding is held to Pillow's and torchvision's own functions and to colours known by hand."""

import contextlib
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from torchvision.transforms import functional

from shoal.data.decode import Budget, UnreadableError, decode

RNG = np.random.default_rng(0)


def encoded(image, kind="PNG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(width, height, mode="RGB"):
    """A picture without hard edges, so that a JPEG of it stays close to it."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def chunked(array):
    return np.asarray(array).transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_exact_formats_give_their_pixels(kind):
    image = smooth(9, 7).quantize(64).convert("RGB") if kind == "GIF" else smooth(9, 7)
    assert np.array_equal(decode(encoded(image, kind)), chunked(image))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(kind):
    image = smooth(40, 24)
    assert np.abs(decode(encoded(image, kind, quality=95)).astype(int) - chunked(image)).mean() < 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "HSV", "YCbCr"])
def test_plain_modes_agree_with_pillow(mode):
    image = smooth(8, 6, mode)
    kind = "TIFF" if mode == "YCbCr" else "PNG"
    image = image if mode != "HSV" else image.convert("RGB")
    assert np.abs(decode(encoded(image, kind)).astype(int) - chunked(image.convert("RGB"))).max() <= 1


def test_transparent_parts_lie_on_white():
    values = RNG.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    alpha = values[..., 3:] / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decode(encoded(Image.fromarray(values))) - chunked(expected)).max() <= 1

    grey = Image.fromarray(values[..., :2])
    assert grey.mode == "LA"
    expected = values[..., :1] * (values[..., 1:2] / 255) + 255 - values[..., 1:2]
    assert np.abs(decode(encoded(grey)) - chunked(expected.repeat(3, -1))).max() <= 1


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putdata([0, 1])
    for data in (encoded(image, transparency=1), encoded(image, "GIF", transparency=1)):
        assert decode(data)[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255]]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode(encoded(Image.fromarray(values), kind))[:, 0].tolist() == [[0, 1, 100, 255]] * 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, np.nan, 1.0]], np.float32), [0, 128, 128, 255]),
        (np.array([[0, 100, 200]], np.int32), [0, 100, 200]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
    ],
)
def test_thirty_two_bit_grey_takes_the_range_that_holds_it(values, expected):
    assert decode(encoded(Image.fromarray(values), "TIFF"))[:, 0].tolist() == [expected] * 3


def test_cmyk_has_its_colours():
    for color, expected in [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((255, 255, 255, 0), 0)]:
        image = Image.new("CMYK", (16, 16), color)
        for kind in ("TIFF", "JPEG"):
            assert np.abs(decode(encoded(image, kind)).astype(int) - expected).max() <= 2


def test_lab_comes_back_as_the_colours_it_was_made_of():
    image = smooth(8, 8).point(lambda value: 60 + value // 2)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.buildTransform(*profiles, "RGB", "LAB").apply(image)
    assert np.abs(decode(encoded(lab, "TIFF")).astype(int) - chunked(image)).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(9, 5), exif=exif)
    assert np.array_equal(decode(data), chunked(ImageOps.exif_transpose(Image.open(BytesIO(data)))))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(64, 32), (40, 60), (41, 97), (16, 16), (48, 48), (8, 10)])
def test_size_is_torchvisions_resize_and_centre_crop(shape):
    image = smooth(*shape)
    expected = functional.center_crop(functional.resize(image, 16, antialias=True), 16)
    found = decode(encoded(image), 16)
    assert found.shape == (3, 16, 16)
    # torchvision rounds the long side and the corner of the crop to whole pixels, shoal does not.
    exact = (16 * max(shape)) % (2 * min(shape)) == 0
    assert np.abs(found.astype(int) - chunked(expected)).mean() <= (0 if exact else 6)


def test_a_large_jpeg_resized_looks_like_the_whole_one_resized():
    noise = Image.fromarray(RNG.integers(0, 256, (100, 100, 3), dtype=np.uint8))
    data = encoded(noise.resize((1600, 1600), Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole = functional.resize(torch.from_numpy(decode(data)), [128, 128], antialias=True)
    assert np.abs(decode(data, 128).astype(int) - whole.numpy()).mean() < 1.5


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_decompression_bomb_is_told_from_its_header():
    start = time.perf_counter()
    with pytest.raises(UnreadableError, match="decompression bomb"):
        decode(png_header(20_000, 20_000) + encoded(smooth(8, 8))[33:])
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_no_damage_gets_past_the_one_exception(kind):
    data = encoded(smooth(64, 48), kind)
    with pytest.raises(UnreadableError):
        decode(data[: len(data) // 2])
    for _ in range(20):
        hurt = np.frombuffer(data, np.uint8).copy()
        hurt[RNG.integers(0, len(data), 30)] = RNG.integers(0, 256, 30)
        with contextlib.suppress(UnreadableError):
            assert decode(hurt.tobytes()).shape[0] == 3


def test_reasons_are_short():
    for data, reason in [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (encoded(smooth(64, 48), "JPEG")[:500], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript: export it as PNG"),
        (
            # Numbers of 64 bits instead of 8.
            encoded(smooth(8, 8, "L"), "TIFF").replace(b"\2\1\3\0\1\0\0\0\x08", b"\2\1\3\0\1\0\0\0\x40"),
            "truncated",
        ),
    ]:
        with pytest.raises(UnreadableError) as caught:
            decode(data)
        assert str(caught.value) == reason


def test_memory_that_runs_out_is_a_reason(monkeypatch):
    def run_out(_image):
        raise MemoryError

    monkeypatch.setattr("shoal.data.decode.to_rgb", run_out)
    with pytest.raises(UnreadableError, match=r"^too large for the memory$"):
        decode(encoded(smooth(8, 8)))


def test_images_that_would_fill_the_memory_wait(monkeypatch):
    monkeypatch.setattr("shoal.data.decode._budget", Budget(3 * 64 * 8))
    at_once, most = 0, 0

    def busy(image):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1
        return image

    monkeypatch.setattr("shoal.data.decode.to_rgb", busy)
    for size, limit in (((8, 8), 3), ((80, 80), 1)):  # one that exceeds all there is has it for itself
        most = 0
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(decode, [encoded(smooth(*size))] * 6))
        assert most == limit


@pytest.mark.slow
def test_eight_large_progressive_jpegs_at_a_time_stay_under_the_limit(tmp_path):
    """64 megapixels each; a process of its own, so that its peak is theirs."""
    noise = Image.fromarray(RNG.integers(0, 255, (300, 300, 3), dtype=np.uint8))
    noise.resize((8000, 8000)).save(tmp_path / "a.jpg", progressive=True, quality=70, subsampling=0)
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shoal.data.decode import open_rgb
data = Path({str(tmp_path / "a.jpg")!r}).read_bytes()
with ThreadPoolExecutor(8) as pool:
    assert [image.size for image in pool.map(lambda _: open_rgb(data, 512), range(16))] == [(1000, 1000)] * 16
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[1]) / 1024 < 1200  # MB


def test_greys_of_many_bits_take_little_memory():
    values = np.linspace(-3, 5, 2000 * 3000, dtype=np.float32).reshape(2000, 3000)
    data = encoded(Image.fromarray(values), "TIFF")
    tracemalloc.start()
    pixels = decode(data)
    assert tracemalloc.get_traced_memory()[1] < 16 * values.size
    tracemalloc.stop()
    assert np.array_equal(pixels[0], np.rint((values.astype(np.float64) + 3) / 8 * 255).astype(np.uint8))
