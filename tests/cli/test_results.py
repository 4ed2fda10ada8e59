"""What the command makes of a finished run: predictions, figures, the report."""

import csv
import json
import shlex
import shutil

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.commands import complaint, photos
from tests.runs import new_run, tiny_recipe

from shoal.cli.main import main
from shoal.folder import ResultFolder
from shoal.methods import Method

pytestmark = pytest.mark.usefixtures("no_umap", "own_cache")


def test_predict_writes_parquet_and_csv(run, tmp_path, capsys):
    folder = photos(tmp_path / "new", size=20)
    for name in ("a.csv", "a.parquet"):
        assert main(["predict", str(run), str(folder), "--out", str(tmp_path / name)]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "a.parquet")
    assert [row["id"] for row in rows] == table["id"].to_pylist() == [f"{i:03}.png" for i in range(12)]
    assert [int(row["cluster"]) for row in rows] == table["cluster"].to_pylist()
    assert main(["predict", str(run), str(folder), "--out", str(tmp_path / "a.csv")]) == 2
    assert "exists already" in complaint(capsys)


def test_predict_repeats_the_training_assignment(run, tmp_path):
    assert main(["predict", str(run), str(run.parent / "pictures"), "--out", str(tmp_path / "a.parquet")]) == 0
    old, new = pq.read_table(run / "assignments.parquet"), pq.read_table(tmp_path / "a.parquet")
    assert old["cluster"].equals(new["cluster"])


def test_evaluate_prints_what_training_measured(run, capsys):
    (run / "evaluation.json").unlink(missing_ok=True)
    assert main(["evaluate", str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    found = json.loads((run / "evaluation.json").read_text())
    last = ResultFolder(run).read_metrics()[-1]
    for name in ("acc", "nmi", "ari", "fmi"):
        assert found["scores"][name] == pytest.approx(last[name], abs=1e-3)
    assert found["signals"]["silhouette"] == pytest.approx(last["silhouette"], abs=1e-3)
    assert f"Accuracy (one-to-one matching) {found['scores']['acc']:.4f}" in printed
    assert "200 images, all labelled, 0 held out; 4 clusters" in printed
    assert [(row["of"], row["method"]) for row in found["baselines"]] == [
        ("features", "k-means"),
        ("features", "UMAP + k-means"),
        ("pixels", "k-means"),
        ("pixels", "UMAP + k-means"),
    ]
    assert f"k-means on pixels {found['baselines'][2]['scores']['acc']:.4f}" in printed
    assert str(run / "evaluation.json") in printed
    (run / "evaluation.json").unlink()


def test_evaluate_reads_the_backbone_and_the_report_shows_it(run, tmp_path, capsys):
    copy = tmp_path / "it's a copy"
    shutil.copytree(run, copy)
    assert main(["evaluate", str(copy), "--knn", "--linear"]) == 0
    said = capsys.readouterr().out
    assert "200 images, each among all others" in said
    assert "trained on 160 images, tested on a random fifth (40 images)" in said
    found = json.loads((copy / "evaluation.json").read_text())
    assert found["knn"]["accuracy"]["top1"] > 0.9
    assert found["linear"]["sgd"]["top1"] > 0.9
    command = shlex.split(said.partition("'shoal ")[2].rpartition("' puts")[0])
    assert main(command) == 0
    assert "Linear probe" in (copy / "report.html").read_text()
    assert "Linear probe" not in (run / "report.html").read_text()


@pytest.mark.slow
def test_images_without_labels_have_neither_neighbours_nor_a_probe(tmp_path, capsys):
    bare = tmp_path / "bare"
    photos(bare, n=40)
    out = tmp_path / "run"
    recipe = str(tiny_recipe(tmp_path))
    assert main(["train", recipe, "--data.path", str(bare), "--max-steps", "1", "--quiet", "--out", str(out)]) == 0
    for flag, name in (("--linear", "a linear probe needs"), ("--knn", "nearest neighbours need")):
        assert main(["evaluate", str(out), flag]) == 2
        assert f"{name} labels, and these images have none: give each class a subfolder" in complaint(capsys)
    assert not (out / "evaluation.json").exists()
    assert main(["evaluate", str(out)]) == 0
    assert json.loads((out / "evaluation.json").read_text())["scores"] == {}
    assert main(["report", str(out)]) == 0
    assert "UMAP + k-means on pixels" in (out / "report.html").read_text()


def test_a_damaged_evaluation_is_refused_by_the_report(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "evaluation.json").write_text("{")
    assert main(["report", str(copy)]) == 2
    assert "evaluation.json is damaged: run 'shoal evaluate' to write it again" in complaint(capsys)


def test_report_is_written_again(run):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert len((run / "report.html").read_text()) == pytest.approx(len(before), rel=0.05)


def test_report_and_evaluate_use_what_is_kept(run, tmp_path, monkeypatch, caplog):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (run.parent / "pictures").rename(tmp_path / "gone")
    monkeypatch.setattr(Method, "embed", lambda *_: pytest.fail("embedded again"))
    try:
        assert main(["report", str(copy)]) == 0
        assert main(["evaluate", str(copy)]) == 0
        assert "figures that need the images are left out: there is no file or folder" in caplog.text
        assert json.loads((copy / "evaluation.json").read_text())["scores"]["acc"] > 0.5
        assert main(["evaluate", str(copy), "--knn"]) == 2
    finally:
        (tmp_path / "gone").rename(run.parent / "pictures")


def test_images_that_changed_since_training_are_noticed(run, tmp_path, caplog, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    extra = run.parent / "pictures" / "class 0" / "extra.png"
    Image.new("RGB", (8, 8)).save(extra)
    try:
        assert main(["evaluate", str(copy)]) == 0  # what has joined is no obstacle
        assert "left out" not in caplog.text
        assert main(["sort", str(copy), "--copy", str(tmp_path / "sorted"), "--yes"]) == 0  # what has joined stays
        assert len(list((tmp_path / "sorted").rglob("*.png"))) == 200
        (run.parent / "pictures" / "class 0" / "0.png").rename(tmp_path / "0.png")
        assert main(["sort", str(copy), "--copy", str(tmp_path / "again")]) == 0
        assert "1 image is gone since the images were clustered: class 0/0.png." in capsys.readouterr().err
        assert main(["evaluate", str(copy)]) == 0
        assert "left out: 1 image is gone, renamed or changed since" in caplog.text
        assert main(["evaluate", str(copy), "--linear"]) == 2
    finally:
        extra.unlink()
        (tmp_path / "0.png").rename(run.parent / "pictures" / "class 0" / "0.png")


@pytest.mark.slow
def test_a_run_is_sorted_exported_and_clustered_again(run, tmp_path, capsys):
    sorted_to, graph = tmp_path / "sorted", tmp_path / "model.onnx"
    assert main(["sort", str(run), "--copy", str(sorted_to), "--yes"]) == 0
    table = pq.read_table(run / "assignments.parquet")
    folders = {path.name: path.parent.name for path in sorted_to.rglob("*.png")}
    assert {
        name: f"cluster-{label:02}"
        for name, label in zip(
            (id_.rpartition("/")[2] for id_ in table["id"].to_pylist()), table["cluster"].to_pylist(), strict=True
        )
    } == folders
    assert main(["export", str(run), str(graph)]) == 0
    assert "differ from PyTorch's by at most" in capsys.readouterr().out
    images = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in _pictures(run, table)]) / 255
    session = onnxruntime.InferenceSession(graph)
    clusters, confidence = session.run(["cluster", "confidence"], {"images": images.astype(np.float32)})
    assert clusters.tolist() == table["cluster"].to_pylist()
    np.testing.assert_allclose(confidence, table["confidence"].to_numpy(), atol=1e-4)
    assert main(["cluster", str(run), "-k", "2", "--out", str(tmp_path / "two")]) == 0
    assert set(pq.read_table(tmp_path / "two" / "assignments.parquet")["cluster"].to_pylist()) == {0, 1}


def _pictures(run, table):
    return [run.parent / "pictures" / name for name in table["id"].to_pylist()]


def test_both_kinds_of_result_have_the_same_tables(run, tmp_path):
    assert main(["cluster", str(run), "-k", "4", "--out", str(tmp_path / "again")]) == 0
    written = {path.name for path in (tmp_path / "again").iterdir()}
    assert written | {"features"} <= {path.name for path in run.iterdir()}
    for name in ("assignments.parquet", "atlas.parquet"):
        assert pq.read_schema(run / name).equals(pq.read_schema(tmp_path / "again" / name))


@pytest.mark.slow
def test_a_damaged_model_is_refused(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    model = copy / "model.safetensors"
    model.write_bytes(model.read_bytes()[:1000])
    assert main(["predict", str(copy), "digits", "--out", str(tmp_path / "a.csv")]) == 2
    assert "is damaged" in complaint(capsys)
    # The state holds the truth: resuming a run that was done writes the model again.
    assert main(["train", "--resume", str(copy), "--quiet"]) == 0
    assert model.read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_run_that_is_not_finished_cannot_predict(tmp_path, capsys):
    new_run(tmp_path / "run").save()
    assert main(["predict", str(tmp_path / "run"), "digits", "--out", str(tmp_path / "a.csv")]) == 2
    assert "shoal train --resume" in complaint(capsys)


def test_other_weights_than_those_of_the_features_are_noticed(run, tmp_path, capsys):
    from safetensors import safe_open
    from safetensors.torch import save_file

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with safe_open(copy / "model.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {k: v + 1 if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(tensors, copy / "model.safetensors", metadata)
    assert main(["predict", str(copy), "digits", "--out", str(tmp_path / "a.csv")]) == 2
    assert "holds different weights" in complaint(capsys)
