"""The table for embedding-atlas, opened by embedding-atlas."""

import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from shoal.errors import UserError
from shoal.results import atlas as atlas_module
from shoal.results.atlas import read_atlas, write_atlas
from shoal.results.rows import Assignments


@pytest.fixture
def atlas(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_module, "_ROWS", 4)
    draw = torch.Generator().manual_seed(0)
    found = Assignments(
        torch.arange(10) % 3, torch.rand(10, generator=draw), torch.rand(10), torch.rand(10), torch.rand(10, 2)
    )
    pixels = torch.stack([torch.full((3, 100, 150), 25 * i, dtype=torch.uint8) for i in range(10)])
    path = tmp_path / "atlas.parquet"
    write_atlas(found, [*(f"{i}.jpg" for i in range(9)), "bad\udcff.jpg"], pixels, path)
    return path, found


def test_each_image_has_its_picture(atlas):
    path, found = atlas
    table = pq.read_table(path)
    assert table.column_names == ["id", "cluster", "confidence", "x", "y", "image"]
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert table["id"][9].as_py() == r"bad\udcff.jpg"
    assert table["cluster"].to_pylist() == found.labels.tolist()
    np.testing.assert_array_equal(np.stack([table["x"], table["y"]], 1), found.positions)
    for i, picture in enumerate(table["image"].to_pylist()):
        with Image.open(io.BytesIO(picture["bytes"])) as image:
            assert image.size == (96, 64)
            assert abs(np.asarray(image.convert("RGB"), int) - 25 * i).max() < 4


def test_thumbnails_are_read_again(atlas):
    ids, pixels = read_atlas(atlas[0])
    assert ids[:2] == ["0.jpg", "1.jpg"]
    assert pixels.shape == (10, 3, 64, 96)
    assert all(abs(int(pixels[i].float().mean()) - 25 * i) < 4 for i in range(10))


def test_a_damaged_atlas_is_refused(tmp_path):
    (tmp_path / "atlas.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot read the thumbnails"):
        read_atlas(tmp_path / "atlas.parquet")


@pytest.mark.skipif(find_spec("embedding_atlas") is None, reason="embedding-atlas is not installed")
def test_embedding_atlas_opens_it(atlas, tmp_path):
    path, _ = atlas
    line = next(line for line in atlas_module.__doc__.splitlines() if "embedding-atlas atlas.parquet" in line)
    options = line.split()[2:]
    code = "import sys; from embedding_atlas.cli import main; main()"
    (tmp_path / "page").mkdir()  # in place of its own page of 40 MB
    args = [str(path), *options, "--export-application", str(tmp_path / "app"), "--static", str(tmp_path / "page")]
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *args]
    subprocess.run(command, env=os.environ | home, check=True, capture_output=True, timeout=100)
    about = json.loads((tmp_path / "app" / "data" / "metadata.json").read_text())["props"]["data"]
    table = pq.read_table(tmp_path / "app" / "data" / "dataset.parquet")
    assert about["projection"] == {"x": "x", "y": "y"}
    assert about["image"] == "image"
    assert table["image"].to_pylist() == pq.read_table(path)["image"].to_pylist()
