"""Preparing holds to timm's own transform, pixel by pixel where no JPEG is decoded to a part of its size."""

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from shoal.data.decode import UnreadableError
from shoal.features.inference import SquarePreparing, TimmPreparing, open_whole
from tests.features.examples import encoded

TINY = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-10"
CONFIG = {
    "input_size": (3, 160, 160),
    "interpolation": "bicubic",
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "crop_pct": 0.9,
    "crop_mode": "center",
}


def prepared_by(preparing):
    """From a file, or pixels, to what the network takes."""
    return lambda data: preparing.from_image(open_whole(data, preparing))


def theirs(image, config):
    """What timm gives the network, with the normalisation taken off again, in [0, 255]."""
    tensor = timm.data.create_transform(**config, is_training=False)(image.convert("RGB"))
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    return ((tensor * std + mean) * 255).numpy()


def smooth(height, width):
    """A picture with gradients and edges, as photographs have them."""
    y, x = np.mgrid[:height, :width]
    layers = [127 + 120 * np.sin(x / 19 + k) * np.cos(y / (13 + k)) for k in range(3)]
    return np.stack(layers, -1).astype(np.uint8)


def test_photographs_come_out_as_from_timm():
    if not TINY.is_dir():
        pytest.skip("there is no shared/data/tiny-imagenet-10 beside the repository")
    prepare = prepared_by(TimmPreparing(CONFIG))
    for path in sorted(TINY.glob("*/*"))[::250]:
        np.testing.assert_allclose(prepare(path.read_bytes()), theirs(Image.open(path), CONFIG), atol=1e-3)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(300, 200), (200, 333), (8, 8), (8, 30), (160, 160), (1, 1)])
@pytest.mark.parametrize("target", [(160, 160), (96, 128)])
def test_every_shape_comes_out_as_from_timm(mode, size, target):
    config = {**CONFIG, "crop_mode": mode, "input_size": (3, *target)}
    pixels = smooth(*size)
    expected = theirs(Image.fromarray(pixels), config)
    prepare = prepared_by(TimmPreparing(config))
    found = prepare(encoded(pixels))
    assert (found.shape, found.dtype) == ((3, *target), np.uint8)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(prepare(pixels.transpose(2, 0, 1)), found)


def test_every_mode_becomes_rgb():
    prepare = prepared_by(TimmPreparing(CONFIG))
    grey = Image.fromarray(smooth(200, 180)).convert("L")
    for image, form in [(grey, "PNG"), (grey.convert("CMYK"), "TIFF")]:
        file = io.BytesIO()
        image.save(file, form)
        np.testing.assert_allclose(prepare(file.getvalue()), theirs(image, CONFIG), atol=1e-3)


def test_a_large_jpeg_is_decoded_small_with_little_difference():
    data = encoded(smooth(1500, 2200), "JPEG", quality=92)
    expected = theirs(Image.open(io.BytesIO(data)), CONFIG)
    difference = np.abs(prepared_by(TimmPreparing(CONFIG))(data) - expected)
    assert 0 < difference.mean() < 1
    assert difference.max() < 12


@pytest.mark.parametrize("size", [(4, 3000), (3000, 4)])
def test_a_very_long_image_is_cut_before_it_is_resized(size):
    expected = theirs(Image.fromarray(smooth(*size)), CONFIG)
    found = prepared_by(TimmPreparing(CONFIG))(encoded(smooth(*size)))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_is_no_image_has_a_reason():
    for prepare in (TimmPreparing(CONFIG), SquarePreparing((8, 8))):
        with pytest.raises(UnreadableError, match="not an image"):
            prepared_by(prepare)(b"some text")
    with pytest.raises(UnreadableError, match="16 × 16 px, and the run was trained on 8 × 12 px"):
        prepared_by(SquarePreparing((8, 12)))(encoded(smooth(16, 16)))
