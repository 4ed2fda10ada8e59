"""What is kept of each image to tell its copies from."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from shoal.data.rgb import to_array
from shoal.data.sketch import SKETCH, sketch


@pytest.fixture(scope="module")
def photo():
    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 256, (9, 12, 3), np.uint8))
    return small.resize((640, 480), Image.Resampling.BICUBIC)


def of(image, data=b"12345"):
    return np.frombuffer(sketch(image, data, to_array(image.resize((64, 64)))), SKETCH)[0]


def test_thumbnails_are_of_the_whole_image(photo):
    found = of(photo)
    small = np.asarray(photo.resize((16, 16), Image.Resampling.BOX).convert("YCbCr"), float)
    assert np.abs(found["luma"] - small[..., 0]).mean() < 4
    cells = small[..., 1:].reshape(4, 4, 4, 4, 2).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(found["chroma"] - cells).mean() < 4
    assert (found["width"], found["height"], found["bytes"]) == (640, 480, 5)


def test_a_jpeg_decoded_at_a_part_of_its_size_and_turned_has_its_own_size(photo):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(file, "JPEG", exif=exif)
    shown = photo.transpose(Image.Transpose.ROTATE_270).resize((120, 160))
    found = of(shown, file.getvalue())
    assert (found["width"], found["height"], found["bytes"]) == (480, 640, len(file.getvalue()))


def test_sharpness_tells_a_blurred_version_and_not_a_brighter_one():
    noise = Image.fromarray(np.random.default_rng(1).integers(60, 120, (64, 64, 3), np.uint8))
    sharp = of(noise)["sharpness"]
    assert of(noise.filter(ImageFilter.GaussianBlur(1)))["sharpness"] < 0.5 * sharp
    assert of(noise.point(lambda value: 2 * value))["sharpness"] == pytest.approx(sharp, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2, 3)])
def test_any_size_has_a_sketch(size):
    assert of(Image.new("RGB", size, "red"))["width"] == size[0]
