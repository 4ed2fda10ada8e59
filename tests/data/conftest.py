"""Every test of the data has its own cache."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SHOAL_CACHE", str(folder))
    return folder


@pytest.fixture
def paint():
    """Write a picture of one colour, or of noise, of 8 x 6 pixels."""

    def write(path, color=None, size=(8, 6)):
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = np.random.default_rng(len(path.as_posix()) + sum(bytes(path)))
        noise = Image.fromarray(seed.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        (noise if color is None else Image.new("RGB", size, color)).save(path)
        return path

    return write
