"""Arrays, tensors and .npy files of images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from shoal.data import DataConfig, load_images, to_images
from shoal.errors import UserError

RGB = np.random.default_rng(1).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
FIRST = np.ascontiguousarray(RGB.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "array",
    [
        RGB,
        FIRST,
        torch.from_numpy(FIRST),
        torch.from_numpy(RGB),
        RGB / 255,
        (RGB / 255).astype(np.float32),
        torch.from_numpy(FIRST) / 255,
        (RGB / 255).astype(">f8"),
    ],
)
def test_arrays_of_colour(array):
    images = to_images(array)
    assert torch.equal(images.pixels, torch.from_numpy(FIRST))
    assert images.targets.tolist() == [-1] * 5
    assert images.ids == [f"array#{i}" for i in range(5)]


@pytest.mark.parametrize("array", [RGB[..., 0], RGB[..., :1], FIRST[:, :1], RGB[..., 0] / 255])
def test_arrays_of_grey(array):
    assert torch.equal(to_images(array).pixels, torch.from_numpy(FIRST[:, :1]).expand(-1, 3, -1, -1))


def test_arrays_that_torch_cannot_share():
    assert torch.equal(to_images(RGB[::-1]).pixels, torch.from_numpy(FIRST).flip(0))
    frozen = FIRST.copy()
    frozen.flags.writeable = False
    assert torch.equal(to_images(frozen).pixels, torch.from_numpy(FIRST))


def test_arrays_are_resized_like_files(tmp_path):
    for i, image in enumerate(RGB):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    assert torch.equal(to_images(RGB, size=4).pixels, to_images(tmp_path, size=4).pixels)
    assert to_images(RGB[..., 0], size=4).pixels.shape == (5, 3, 4, 4)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (RGB.astype(np.float32), "values from 0 to 25., but float images must be between 0 and 1"),
        (RGB / 255 - 0.5, "values from -0.5 to 0.5"),
        (np.full((2, 4, 4), np.nan), "NaN"),
        (RGB.astype(bool), "type bool"),
        (RGB[0], r"shape \(9, 7, 3\).*array\[None\]"),
        (RGB.reshape(5, -1), r"shape \(5, 189\).*reshape\(n, h, w\)"),
        (RGB[:, :3], r"shape \(5, 3, 7, 3\), and its channels could be first or last"),
        (np.zeros((2, 8, 8, 4), np.uint8), "no axis has 1 or 3 channels"),
        (RGB[:0], "contains no images"),
        (np.array(["a", "b"]), "there is no file a"),
        (np.zeros((2, 4, 4), complex), "type complex128"),
    ],
)
def test_arrays_that_are_no_images(array, sentence):
    with pytest.raises(UserError, match=sentence):
        to_images(array)


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "last.npy", RGB)
    np.save(tmp_path / "float.npy", FIRST / 255)
    images = load_images(DataConfig(path=str(tmp_path / "last.npy")))
    assert torch.equal(images.pixels, torch.from_numpy(FIRST))
    assert images.ids[1] == "last.npy#1"
    assert torch.equal(to_images(tmp_path / "float.npy").pixels, torch.from_numpy(FIRST))


def zipped(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (np.array([{}, {}], dtype=object), "cannot read .*npy"),
        (np.zeros((3, 4)), r"shape \(3, 4\)"),
        (b"junk", "cannot read .*npy"),
        (b"", "cannot read .*npy"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': (((   \n", "cannot read .*npy"),
        (zipped(RGB), "cannot read .*npy"),
    ],
)
def test_bad_npy(tmp_path, content, sentence):
    path = tmp_path / "x.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(UserError, match=sentence):
        to_images(path)


def test_images_pass_through():
    images = to_images(RGB)
    assert to_images(images) is images
