"""Folders that version 0.1 wrote: clusters are read, and a run says how it gets what is missing.

``version_0_1`` holds what 0.1 made of 24 tiny pictures, reports left out; /HOME stands for the folder they lay in.
"""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tests.commands import complaint
from tests.runs import tiny_images

from shoal.cli.main import main
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("own_cache", "no_umap")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The working folder, with the pictures, run/ and clusters/."""
    images = tiny_images(24)
    for pixels, target, name in zip(images.pixels, images.targets.tolist(), images.ids, strict=True):
        path = tmp_path / "pictures" / images.classes[target] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    shutil.copytree(Path(__file__).parent / "version_0_1", tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "run/config.yaml", tmp_path / "clusters/features/header.json"):
        path.write_text(path.read_text().replace("/HOME", str(tmp_path)))
    path = tmp_path / "clusters/clustering.safetensors"
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {key: value.replace("/HOME", str(tmp_path)) for key, value in metadata.items()})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_clusters_serve_every_command(home, capsys):
    before = pq.read_table("clusters/assignments.parquet")
    for command in (
        "report clusters",
        "evaluate clusters",
        "sort clusters --copy sorted --yes",
        "predict clusters pictures --out same.parquet",
        "export clusters model.onnx",
        "cluster clusters -k 3 --out three",
    ):
        assert main(command.split()) == 0, capsys.readouterr().err
    assert pq.read_table("same.parquet")["cluster"].to_pylist() == before["cluster"].to_pylist()
    assert len(list((home / "sorted").rglob("*.png"))) == 24
    assert Result.load(Path("clusters")).names == {}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["report run", "evaluate run", "sort run --copy out", "predict run pictures"])
def test_a_run_says_how_it_gets_what_is_missing(command, capsys):
    assert main(command.split()) == 2
    expected = "run was trained by shoal 0.1, which kept no features: 'shoal train --resume run' adds what is missing."
    assert expected in complaint(capsys)


@pytest.mark.usefixtures("home")
def test_a_run_that_was_resumed_is_a_result():
    before = pq.read_table("run/assignments.parquet")
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    after = pq.read_table("run/assignments.parquet")
    assert after["cluster"].to_pylist() == before["cluster"].to_pylist()
    assert after["label"].to_pylist() == before["label"].to_pylist()
    assert main(["sort", "run", "--copy", "sorted", "--yes"]) == 0
    assert main(["report", "run"]) == 0
