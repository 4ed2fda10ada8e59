"""Results whose files are damaged, gone or exchanged: one sentence each, and nothing lost."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.commands import complaint
from tests.runs import tiny_images, tiny_recipe

import shoal
from shoal.cli.main import main
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("own_cache", "no_umap")


@pytest.fixture
def copy(run, tmp_path):
    """A run, to be damaged."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def table_with(path, name, values):
    table = pq.read_table(path)
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, pa.array(values)), path)


DAMAGE = {
    "no table": lambda run: (run / "assignments.parquet").unlink(),
    "a table of text": lambda run: (run / "assignments.parquet").write_text("text"),
    "a cluster too many": lambda run: table_with(run / "assignments.parquet", "cluster", [99] * 200),
    "clusters of text": lambda run: table_with(run / "assignments.parquet", "cluster", ["a"] * 200),
    "no cluster": lambda run: table_with(run / "assignments.parquet", "cluster", pa.nulls(200, pa.int64())),
    "confidence of text": lambda run: table_with(run / "assignments.parquet", "confidence", ["high"] * 200),
    "no thumbnails": lambda run: (run / "atlas.parquet").unlink(),
    "thumbnails of text": lambda run: table_with(run / "atlas.parquet", "image", ["a"] * 200),
    "duplicates of bytes": lambda run: (run / "duplicates.csv").write_bytes(b"group,id\n\xff,\xff\n"),
    "other outliers": lambda run: (run / "outliers.csv").write_text("a,b\n1,2\n"),
    "metrics of text": lambda run: (run / "metrics.jsonl").write_text('{"epoch": "one"}\n'),
    "metrics of lists": lambda run: (run / "metrics.jsonl").write_text("[1]\n"),
    "no features": lambda run: shutil.rmtree(run / "features"),
    "empty features": lambda run: (run / "features" / "features.f32").write_bytes(b""),
    "short features": lambda run: (run / "features" / "features.f32").write_bytes(b"12345"),
    "no clustering": lambda run: (run / "clustering.safetensors").unlink(),
    "a damaged clustering": lambda run: (run / "clustering.safetensors").write_bytes(b"12345"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_a_sentence(copy, damage, capsys):
    DAMAGE[damage](copy)
    assert main(["report", str(copy)]) == 2
    said = complaint(capsys)
    assert any(hint in said for hint in ("--resume", "again", "copy", "remove it")), said


@pytest.mark.slow
def test_a_clustering_of_a_run_predicts_and_exports(run, tmp_path):
    again = str(tmp_path / "again")
    assert main(["cluster", str(run), "-k", "3", "--out", again]) == 0
    pictures, out = str(run.parent / "pictures"), tmp_path / "same.parquet"
    assert main(["predict", again, pictures, "--out", str(out)]) == 0
    same, kept = pq.read_table(out), pq.read_table(tmp_path / "again" / "assignments.parquet")
    assert same["cluster"].equals(kept["cluster"])
    assert main(["export", again, str(tmp_path / "again.onnx")]) == 0
    assert str(run) in (tmp_path / "again" / "report.html").read_text()  # in the command that gives it again


@pytest.mark.slow
def test_features_of_another_run_in_the_same_place_are_noticed(run, copy, tmp_path, capsys):
    again = tmp_path / "again"
    assert main(["cluster", str(copy), "-k", "3", "--out", str(again)]) == 0
    shutil.rmtree(copy)
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--seed", "5", "--max-steps", "1", "--quiet", "--out", str(copy)]) == 0
    assert main(["report", str(again)]) == 0  # from features of its own
    assert main(["predict", str(again), str(run.parent / "pictures"), "--out", str(tmp_path / "new.csv")]) == 2
    assert "holds different weights" in complaint(capsys)
    replace(Result.load(again), features_at=copy / "features").save()  # as older versions left them
    for command in ("report", "evaluate"):
        assert main([command, str(again)]) == 2
        assert "features of another network" in complaint(capsys)


def test_a_folder_that_changed_during_training_is_no_obstacle(tmp_path):
    images = tmp_path / "flat"
    images.mkdir()
    for i, pixels in enumerate(tiny_images(24).pixels):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(images / f"{i:03}.png")
    (images / "zz.png").write_text("broken")
    model = shoal.ProPos(4, epochs=1, settings={"data.size": 8, "method.dim": 8, "backbone.width": 4}).fit(images)
    (images / "005.png").unlink()
    shutil.copy(images / "006.png", images / "000a.png")
    model.save(tmp_path / "model")
    assert len(pq.read_table(tmp_path / "model" / "assignments.parquet")) == 24
    assert "zz.png" in (tmp_path / "model" / "skipped.csv").read_text()
    assert main(["report", str(tmp_path / "model")]) == 0


@pytest.mark.slow
def test_a_model_of_arrays_is_clustered_again_and_exported(tmp_path):
    pixels = tiny_images().pixels.numpy()
    model = shoal.ProPos(4, epochs=1, settings={"method.dim": 8, "backbone.width": 4, "optim.batch_size": 16})
    model.fit(pixels).save(tmp_path / "model")
    assert main(["cluster", str(tmp_path / "model"), "-k", "2", "--out", str(tmp_path / "two")]) == 0
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "model.onnx")]) == 0
    np.save(tmp_path / "new.npy", pixels)
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "new.npy"), "--out", str(tmp_path / "a.csv")]) == 0


def test_resuming_a_finished_run_leaves_what_others_put_there(copy):
    (copy / "features" / "mine").mkdir()
    (copy / "features" / "mine" / "notes.txt").write_text("mine")
    assert main(["train", "--resume", str(copy), "--quiet"]) == 0
    assert (copy / "features" / "mine" / "notes.txt").read_text() == "mine"
    assert json.loads((copy / "features" / "header.json").read_text())["n"] == 200
