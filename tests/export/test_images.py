"""What every format takes of a result, and the command."""

import os

import numpy as np
import pytest
from tests.results.conftest import photograph

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.export.images import cluster_labels, labelled_images, one_line
from shoal.results.result import Result


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", "plain"),
        ("two\nlines\r\nand\u2028more", "two lines and more"),
        ("bell\x07 and \udcff stray", "bell  and   stray"),
        ("no \ufffe\uffff character\U0001ffff", "no    character"),
        (" \t\n", ""),
        ("א ‏ب‎ c\u200dd 👩\u200d🔬", "א ‏ب‎ c\u200dd 👩\u200d🔬"),
        ("<&\">'|/\\", "<&\">'|/\\"),
    ],
)
def test_names_become_lines_of_text(name, expected):
    assert one_line(name) == expected


def test_labels_are_names_or_numbers_that_are_nobodys_name():
    names = {0: "cats", 2: "cats", 3: "cluster 01", 4: "\n"}
    found = cluster_labels([4, 3, 2, 1, 0, -1, 0], names)
    assert found == {0: "cats", 1: "cluster 01*", 2: "cats", 3: "cluster 01", 4: "cluster 04"}
    assert cluster_labels([120, 3], {}) == {3: "cluster 003", 120: "cluster 120"}
    assert cluster_labels([-1], {}) == {}


def test_images_have_the_present_state(decided):
    folder, cluster = decided
    found = {image.id: image for image in labelled_images(Result.load(folder))}
    assert len(found) == 32
    assert (found["blue-0.png"].cluster, found["blue-0.png"].label, found["blue-0.png"].by_person) == (-1, "", True)
    assert (found["blue-1.png"].cluster, found["blue-1.png"].by_person) == (cluster["red"], True)
    assert found["blue-1.png"].confidence == 1
    assert {found[f"{name}-3.png"].label for name in ("green", "blue")} == {"same"}
    assert found["green-3.png"].cluster != found["blue-3.png"].cluster
    assert found["grey-0.png"].label == f"cluster {cluster['grey']:02}"
    assert sorted(name for name, image in found.items() if image.by_person) == ["blue-0.png", "blue-1.png", "red-0.png"]


@pytest.mark.parametrize("to", ["xmp", "label-studio", "fiftyone"])
def test_what_cannot_be_exported_is_said_in_a_sentence(clusters, photos, tmp_path, capsys, to):
    def refused(*args):
        assert main(["export", *map(str, args), "--to", to]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    assert "or lies in it: give a folder of its own" in refused(clusters, clusters / "there")
    (tmp_path / "file").touch()
    assert "is a file: give a folder" in refused(clusters, tmp_path / "file")
    if to != "xmp":
        assert "exists and is not an empty folder" in refused(clusters, photos)
    for photo in photos.iterdir():
        photo.unlink()
    photograph(photos, "red", 99)
    assert "any more: bring them back" in refused(clusters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["xmp", "label-studio", "fiftyone"])
def test_features_have_no_images_to_export(tmp_path, capsys, to):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    args = ["cluster", str(tmp_path / "x.npy"), "-k", "2", "--out", str(tmp_path / "clusters"), "--quiet"]
    assert main(args) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "clusters"), str(tmp_path / "out"), "--to", to]) == 2
    assert "holds clusters of features, not of images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_are_gone_or_have_changed_are_left_out_and_named(clusters, photos, tmp_path, capsys):
    (photos / "red-0.png").unlink()
    (photos / "red-1.png").write_bytes((photos / "blue-1.png").read_bytes())
    (photos / "red-2.png").rename(photos / "other.png")
    assert main(["export", str(clusters), str(tmp_path / "out"), "--to", "xmp"]) == 0
    said = capsys.readouterr()
    assert said.out == f"sidecars     in {tmp_path / 'out'}: 30 new\n"
    assert "red-0.png" in said.err
    assert "red-1.png" in said.err
    assert (tmp_path / "out" / "other.png.xmp").is_file()


def test_the_ending_says_what_to_write(clusters, tmp_path, capsys):
    for name, expected in {
        "photos.csv": f"the table is there already: {clusters / 'assignments.csv'}",
        "photos": "should end in .onnx or .safetensors, or say with --to",
    }.items():
        assert main(["export", str(clusters), str(tmp_path / name)]) == 2
        assert expected in capsys.readouterr().err
    assert main(["export", str(clusters), str(tmp_path / "photos.pt"), "--to", "onnx"]) == 2
    assert "should end in .onnx" in capsys.readouterr().err
    assert not list(tmp_path.glob("photos.*"))


@pytest.mark.parametrize(
    ("to", "last", "step"),
    [("label-studio", "tasks.json", "label_studio.tasks"), ("fiftyone", "labels.json", "fiftyone.labels")],
)
def test_an_export_that_was_stopped_goes_on_and_a_strange_folder_is_refused(
    clusters, photos, tmp_path, monkeypatch, capsys, to, last, step
):
    (photos / "red-0.png").rename(os.fsdecode(bytes(photos) + b"/\xff.png"))  # which is copied
    out, command = tmp_path / "out", ["export", str(clusters), str(tmp_path / "out"), "--to", to]

    def stopped(*_args):
        raise UserError("stopped.")

    def written():
        return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    with monkeypatch.context() as patch:
        patch.setattr(f"shoal.export.{step}", stopped)
        assert main(command) == 2
    left = written()
    assert left
    assert not (out / last).exists()
    (out / ".tasks.json-abc.tmp").write_text("as after a kill")
    assert main(command) == 0
    found = written()
    assert (out / last).is_file()
    assert left.items() <= found.items()
    capsys.readouterr()
    assert main(command) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert written() == found


@pytest.mark.parametrize(
    ("to", "name"),
    [
        ("label-studio", "notes.txt"),
        ("label-studio", "images/cat.png"),
        ("label-studio", "config.xml"),
        ("label-studio", "config.xml/cat.png"),
        ("fiftyone", "notes.txt"),
        ("fiftyone", "data/cat.png"),
    ],
)
def test_what_no_export_has_left_is_not_taken_for_a_stopped_one(clusters, tmp_path, capsys, to, name):
    strange = tmp_path / "out" / name
    strange.parent.mkdir(parents=True)
    strange.write_text("mine")
    assert main(["export", str(clusters), str(tmp_path / "out"), "--to", to]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [strange]
    assert strange.read_text() == "mine"
