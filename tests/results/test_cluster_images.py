"""``shoal cluster photos/`` as its users meet it."""

import csv
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from tests.results.conftest import BACKBONE, COLOURS, EACH, photograph

from shoal.cli.main import main
from shoal.data.greys import Scale
from shoal.errors import UserError
from shoal.features import Encoder
from shoal.results import cluster_images
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("photos", "no_umap")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def colour_of(name):
    return name.rpartition("/")[2].partition("-")[0]


def test_a_folder_becomes_clusters(tmp_path, photos, network, capsys, caplog):
    shutil.copy(photos / "red-0.png", photos / "red-0-again.png")
    (photos / "notes.txt").write_text("no image")
    (photos / "broken.jpg").write_text("no image either")
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    folder = tmp_path / "clusters" / "photos"
    written = {path.name for path in folder.iterdir()}
    tables = {"assignments.csv", "assignments.parquet", "representatives.csv", "duplicates.csv", "outliers.csv"}
    assert written == tables | {
        *("report.html", "atlas.parquet", "centers.npy", "clustering.safetensors", "config.yaml", "features"),
        "skipped.csv",
    }
    rows = table(folder / "assignments.csv")
    assert list(rows[0]) == ["id", "cluster", "name", "confidence", "distance", "margin", "x", "y", "label"]
    assert len(rows) == 4 * EACH + 1
    assert adjusted_rand_score([colour_of(row["id"]) for row in rows], [row["cluster"] for row in rows]) == 1
    assert pyarrow.parquet.read_table(folder / "assignments.parquet")["id"].to_pylist() == [row["id"] for row in rows]
    assert {row["id"] for row in table(folder / "duplicates.csv") if row["kind"] == "exact"} == {
        "red-0.png",
        "red-0-again.png",
    }
    assert [row["id"] for row in table(folder / "skipped.csv")] == ["broken.jpg"]
    said = capsys.readouterr().out
    assert "33 images" in said
    assert "clusters/photos/report.html" in said
    assert "broken.jpg (not an image)" in caplog.text


def test_links_are_no_duplicates_and_the_best_copy_is_kept(tmp_path, photos, network, capsys):
    (photos / "another-name.png").symlink_to(photos / "red-0.png")
    os.link(photos / "red-1.png", photos / "red-1-hard.png")
    small = Image.open(photos / "green-0.png").convert("RGB")
    small.resize((3 * small.width, 3 * small.height), Image.Resampling.BICUBIC).save(photos / "large.png")
    shutil.copy(photos / "blue-0.png", photos / "blue-0 (1).png")
    os.link(photos / "blue-0.png", photos / "blue-0-hard.png")
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    assert "3 names are links" in capsys.readouterr().out
    rows = {row["id"]: row for row in table(tmp_path / "clusters" / "photos" / "duplicates.csv")}
    assert not {"another-name.png", "red-0.png", "red-1.png", "red-1-hard.png"} & rows.keys()
    kinds = {name: (row["kind"], row["keep"]) for name, row in rows.items() if name.startswith("blue-0")}
    assert kinds == {
        "blue-0.png": ("link", "true"),
        "blue-0-hard.png": ("exact", "true"),
        "blue-0 (1).png": ("exact", "false"),
    }
    assert (rows["large.png"]["keep"], rows["large.png"]["width"]) == ("true", str(3 * small.width))
    assert (rows["green-0.png"]["kind"], rows["green-0.png"]["keep"]) == ("near", "false")


def test_a_list_that_spells_a_path_twice_names_one_file(tmp_path, photos, network):
    (tmp_path / "list.csv").write_text("\n".join(["path", *(f"photos/{p.name}" for p in photos.iterdir())]))
    with (tmp_path / "list.csv").open("a") as file:
        file.write("\n./photos/red-0.png\nphotos/../photos/red-0.png\n")
    assert main(["cluster", "list.csv", "-k", "4", *network]) == 0
    assert not [row for row in table(tmp_path / "clusters" / "list" / "duplicates.csv") if "red-0.png" in row["id"]]


@pytest.mark.slow
def test_features_of_an_earlier_version_have_neither_sketches_nor_links(tmp_path, photos, network, capsys):
    shutil.copy(photos / "red-0.png", photos / "again.png")
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    folder = tmp_path / "clusters" / "photos"
    for name in ("sketches.bin", "links.i64"):
        (folder / "features" / name).unlink()
    assert main(["cluster", str(folder), "-k", "3", "--out", "again"]) == 0
    assert "kept no thumbnails" in " ".join(capsys.readouterr().out.split())
    rows = table(tmp_path / "again" / "duplicates.csv")
    assert {row["id"] for row in rows if row["kind"] == "exact"} == {"again.png", "red-0.png"}
    assert {row["keep"] for row in rows} == {""}
    old = "\n".join(f"{row['group']},{row['kind']},{row['id']},{row['similarity']}" for row in rows)
    (tmp_path / "again" / "duplicates.csv").write_text(f"group,kind,id,similarity\n{old}\n")
    assert main(["report", "again"]) == 0
    assert "near-duplicates" in (tmp_path / "again" / "report.html").read_text().lower()


def test_new_images_go_to_the_same_clusters(tmp_path, network):
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    for colour in COLOURS:
        photograph(tmp_path / "new", colour, 99)
    known = {row["id"]: row["cluster"] for row in table(tmp_path / "clusters/photos/assignments.csv")}
    assert main(["predict", "clusters/photos", "photos", "--out", "same.csv"]) == 0
    assert {row["id"]: row["cluster"] for row in table(tmp_path / "same.csv")} == known
    assert main(["predict", "clusters/photos", "new", "--out", "new.csv"]) == 0
    by_colour = {colour_of(name): cluster for name, cluster in known.items()}
    assert {colour_of(row["id"]): row["cluster"] for row in table(tmp_path / "new.csv")} == by_colour


@pytest.mark.slow
def test_the_same_features_into_other_clusters(tmp_path, photos, network, monkeypatch):
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    monkeypatch.setattr(Encoder, "embed", lambda *_: pytest.fail("embedded twice"))
    assert main(["cluster", "clusters/photos", "-k", "2", "--out", "two"]) == 0
    assert {row["cluster"] for row in table(tmp_path / "two" / "assignments.csv")} == {"0", "1"}
    assert main(["cluster", "two", "-k", "3", "--out", "three"]) == 0
    assert np.load(tmp_path / "three" / "centers.npy").shape[0] == 3
    (photos / "blue-0.png").unlink()
    assert main(["cluster", "two", "-k", "3", "--out", "four"]) == 0  # from features and thumbnails that are kept
    assert len(table(tmp_path / "four" / "assignments.csv")) == 4 * EACH - 1
    assert main(["sort", "four", "--copy", "sorted"]) == 0
    assert main(["cluster", "two", "-k", "3", "--out", "five", *network]) == 0  # that is the network it has


def stopped(*_given, **_settings):
    raise UserError("stopped after embedding")


def test_more_clusters_than_images_are_refused_before_anything_is_embedded(tmp_path, network, capsys):
    assert main(["cluster", "photos", "-k", "99", "--out", "again", *network]) == 2
    assert "32 images are fewer than the 99 clusters asked for: lower -k" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_stopped_command_goes_on(tmp_path, network, monkeypatch):
    assert main(["cluster", "photos", "-k", "4", "--out", "whole", *network]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(cluster_images, "cluster", stopped)
        assert main(["cluster", "photos", "-k", "4", "--out", "again", *network]) == 2
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"features"}
    monkeypatch.setattr(Encoder, "embed", lambda *_: pytest.fail("embedded twice"))
    assert main(["cluster", "photos", "-k", "4", "--out", "again", *network]) == 0
    assert (tmp_path / "again/assignments.csv").read_bytes() == (tmp_path / "whole/assignments.csv").read_bytes()


@pytest.mark.parametrize("method", ["gmm", pytest.param("temi", marks=pytest.mark.slow), "umap-kmeans"])
def test_every_method(tmp_path, network, method, monkeypatch):
    monkeypatch.setattr("shoal.clustering.temi.estimator.MIN_STEPS", 200)
    assert main(["cluster", "photos", "-k", "4", "--method", method, *network]) == 0
    before = {row["id"]: row["cluster"] for row in table(tmp_path / "clusters/photos/assignments.csv")}
    assert main(["predict", "clusters/photos", "photos", "--out", "same.csv"]) == 0
    assert {row["id"]: row["cluster"] for row in table(tmp_path / "same.csv")} == before


def test_a_list_on_the_standard_input(tmp_path, photos, network, monkeypatch):
    names = [f"photos/{path.name}" for path in sorted(photos.iterdir())]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(names).encode())))
    assert main(["cluster", "-", "-k", "4", *network]) == 0
    assert [row["id"] for row in table(tmp_path / "clusters/stdin/assignments.csv")] == names
    assert main(["sort", "clusters/stdin", "--copy", "sorted", "--yes"]) == 0
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == 4 * EACH
    assert main(["sort", "--undo", "sorted/sorted.jsonl"]) == 0
    assert not (tmp_path / "sorted").exists()


def test_what_was_left_is_no_obstacle_and_what_others_put_there_is(tmp_path, network, capsys):
    folder = tmp_path / "clusters/photos"
    folder.mkdir(parents=True)
    (folder / "assignments.csv").touch()
    (folder / ".report.html.x.tmp").touch()
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    assert not list(folder.glob(".*.tmp"))
    assert main(["cluster", "photos", "-k", "4", *network]) == 2
    assert "already holds clusters: give another --out" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    assert main(["cluster", "photos", "-k", "4", "--out", "other", *network]) == 2


@pytest.mark.slow
def test_the_network_goes_elsewhere_with_the_clusters(tmp_path, network, capsys):
    assert main(["cluster", "photos", "-k", "4", "--copy", "sorted", *network]) == 0
    said = capsys.readouterr().out
    assert said.endswith("nothing has been done yet; to do it: shoal sort clusters/photos --copy sorted --yes\n")
    assert not (tmp_path / "sorted").exists()
    assert main(["export", "clusters/photos", "model.onnx"]) == 0
    assert re.search(
        r"checked +on 8 images: features differ from PyTorch's by at most \d\.\de-0[5-9]", capsys.readouterr().out
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [each.name for each in session.get_outputs()] == ["cluster", "confidence", "probabilities", "features"]


def _repainted(image, kind):
    """The photo in a kind that Pillow's convert("RGB") shows otherwise than shoal, or in none."""
    image = image.resize((90, 60))
    if kind == "transparent":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif kind == "turned":
        return image, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}
    elif kind.startswith("deep"):
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 16 + 15
        return Image.fromarray(grey), {"transparency": int(grey[0, 0])} if kind == "deep transparent" else {}
    elif kind == "palette":
        return image.quantize(8), {"transparency": 1}
    return image, {}


@pytest.mark.slow
def test_the_lines_in_the_docs_prepare_images_as_they_were_clustered(tmp_path, photos, network):
    kinds = {"plain": "blue-0", "transparent": "blue-1", "turned": "blue-2", "palette": "green-0"}
    kinds |= {"deep": "grey-0", "deep transparent": "grey-1"}
    for kind, name in kinds.items():
        with Image.open(photos / f"{name}.png") as image:
            repainted, options = _repainted(image, kind)
            repainted.save(photos / f"{name}.png", **options)
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    assert main(["export", "clusters/photos", "photos.onnx"]) == 0
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text()
    code = re.search(r"```python\n(import json\n.*?)```", text, re.S)[1]
    result = Result.load(tmp_path / "clusters/photos")
    assert set(result.embedded.ranges) == {"uint16"}
    clusters = {row["id"]: int(row["cluster"]) for row in table(tmp_path / "clusters/photos/assignments.csv")}
    for kind, name in kinds.items():
        names = {"print": lambda *_: None}
        exec(code.replace("photo.jpg", f"photos/{name}.png"), names)
        data = (photos / f"{name}.png").read_bytes()
        expected = result.network.prepare(data, Scale(result.embedded.ranges))[None]
        np.testing.assert_array_equal(np.round(names["images"] * 255).astype(np.uint8), expected, err_msg=kind)
        assert names["cluster"][0] == clusters[f"{name}.png"], kind


def test_file_names_stay_text(tmp_path, photos, network):
    name = "<img src=x onerror=alert(1)>.png"
    shutil.move(photos / "red-1.png", photos / name)
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    page = (tmp_path / "clusters/photos/report.html").read_text()
    assert "<img src=x" not in page
    assert name in {row["id"] for row in table(tmp_path / "clusters/photos/assignments.csv")}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["nowhere"], "there is no file or folder nowhere"),
        (["photos", "--copy", "a", "--move", "b"], "files are copied, moved or linked: give one of"),
        (["photos", "--backbone.name", "resnet5000"], "resnet5000"),
        (["photos", "--backbone.weights", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_mistakes(tmp_path, capsys, args, sentence):
    assert main(["cluster", *args]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "clusters").exists()


@pytest.mark.slow
def test_a_folder_of_clusters_may_be_moved(tmp_path, photos, network, capsys):
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    (tmp_path / "clusters").rename(tmp_path / "moved")
    assert main(["cluster", "moved/photos", "-k", "3", "--out", "three"]) == 0
    assert main(["sort", "moved/photos", "--copy", "sorted"]) == 0
    # What is made afresh in its old place is not taken for its own, nor are features that have become others.
    (photos / "blue-0.png").unlink()
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    capsys.readouterr()
    assert main(["sort", "moved/photos", "--copy", "sorted"]) == 0
    assert "1 image is gone" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "moved/photos/features")
    shutil.copytree(tmp_path / "clusters/photos/features", tmp_path / "moved/photos/features")
    assert main(["sort", "moved/photos", "--copy", "sorted"]) == 2
    assert "names other images than were clustered" in capsys.readouterr().err


def test_new_images_that_cannot_be_read_are_named(tmp_path, photos, network, capsys, caplog):
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    for label in "ab":
        (tmp_path / "new" / label).mkdir(parents=True)
        shutil.copy(photos / "red-0.png", tmp_path / "new" / label)
    (tmp_path / "new" / "a" / "broken.png").write_text("no image")
    assert main(["predict", "clusters/photos", "new", "--out", "new.csv"]) == 0
    assert "1 of 3 images could not be read and was skipped: a/broken.png (not an image)" in caplog.text
    assert [(row["id"], row["label"]) for row in table(tmp_path / "new.csv")] == [
        ("a/red-0.png", "a"),
        ("b/red-0.png", "b"),
    ]
    assert main(["predict", "photos", "new", "--out", "other.csv"]) == 2
    assert "photos holds no finished clusters" in capsys.readouterr().err


def test_weights_that_were_moved_are_to_be_put_back(tmp_path, weights, capsys):
    shutil.copy(weights, tmp_path / "w.safetensors")
    assert (
        main(["cluster", "photos", "-k", "4", "--backbone.name", BACKBONE, "--backbone.weights", "w.safetensors"]) == 0
    )
    (tmp_path / "w.safetensors").unlink()
    capsys.readouterr()
    assert main(["predict", "clusters/photos", "photos"]) == 2
    assert "w.safetensors, which the images were embedded with, are gone: restore the file" in capsys.readouterr().err
    assert not (tmp_path / "assignments.csv").exists()


@pytest.mark.slow
def test_folders_are_called_after_the_whole_name(tmp_path, photos, network):
    for day in ("2024.05.01", "2024.05.02"):
        shutil.copytree(photos, tmp_path / day)
        assert main(["cluster", day, "-k", "4", *network]) == 0
    assert {path.name for path in (tmp_path / "clusters").iterdir()} == {"2024.05.01", "2024.05.02"}


def test_names_that_are_not_text(tmp_path, photos, network, monkeypatch, capsys):
    (photos / "bad\x1b[31m\udce9\n.png").write_text("text")
    photos.rename(tmp_path / "caf\udce9")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict", write_through=True)
    monkeypatch.setattr("sys.stdout", shown)
    assert main(["cluster", "caf\udce9", "-k", "4", *network]) == 0
    assert rb"clusters/caf\udce9/report.html" in shown.buffer.getvalue()
    assert main(["cluster", "gone\x1bc\n", "-k", "4", *network]) == 2
    assert capsys.readouterr().err.endswith("shoal: there is no file or folder gone\\x1bc\\n: check the path.\n")


@pytest.mark.slow
def test_clusters_beside_the_images_are_no_images(tmp_path, photos, network, capsys):
    shutil.make_archive("inside/photos", "zip", photos)
    (tmp_path / "inside" / "runs").mkdir()
    for name in ("config.yaml", "state.safetensors", "assignments.parquet"):
        (tmp_path / "inside" / "runs" / name).touch()
    for out in ("inside/one", "inside/two"):
        assert main(["cluster", "inside", "-k", "4", "--out", out, *network]) == 0
    first, second = (tmp_path / "inside" / name / "assignments.csv" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    (tmp_path / "inside" / "two" / "clustering.safetensors").unlink()  # as if it had been stopped
    assert main(["cluster", "inside/one", "-k", "2", "--out", "three"]) == 0
    assert "2, of 32" in capsys.readouterr().out
