"""Tables of paths, in CSV and Parquet."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shoal.data import find_source, to_images
from shoal.errors import UserError


@pytest.fixture
def table(tmp_path, paint):
    """Write a table beside two pictures, and a third elsewhere."""
    paint(tmp_path / "here" / "sub" / "a.png", "red")
    paint(tmp_path / "here" / "b.png", "lime")
    paint(tmp_path / "there" / "c.png", "blue")

    def write(kind, **columns):
        path = tmp_path / "here" / f"table.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
        return path

    return write


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["path", "file", "filename", "image", "image_path"])
def test_paths_are_relative_to_the_table(table, tmp_path, kind, column):
    paths = ["b.png", str(tmp_path / "there" / "c.png"), "sub/a.png", "../there/c.png"]
    path = table(kind, size=[1, 2, 3, 4], **{column: paths})
    images = to_images(path)
    assert images.ids == paths
    assert images.pixels[:, :, 0, 0].tolist() == [[0, 255, 0], [0, 0, 255], [255, 0, 0], [0, 0, 255]]
    assert (images.classes, images.labels.tolist()) == ((), [-1] * 4)
    assert find_source(path).listing().path(2) == tmp_path / "here" / "sub" / "a.png"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["owl", "ant, red", "", "owl"], ("ant, red", "owl"), [1, 0, -1, 1]),
        ([10, 9, -1, 10], ("9", "10"), [1, 0, -1, 1]),
    ],
)
def test_labels_and_ids(table, kind, labels, classes, numbers):
    if kind == "parquet":
        labels = [label if label != "" else None for label in labels]
    ids = ["w", "x", "y", "z\nz"]
    images = to_images(table(kind, id=ids, path=["b.png"] * 4, label=labels))
    assert (images.ids, images.classes, images.labels.tolist()) == (ids, classes, numbers)


def test_the_same_path_twice_has_two_names(table):
    assert to_images(table("csv", path=["b.png", "b.png"])).ids == ["b.png", "b.png#2"]


def test_what_is_not_there_is_skipped(table):
    images = to_images(table("csv", path=["b.png", "gone.png", "bad\0name.png", "."]))
    assert images.ids == ["b.png"]
    assert images.skipped["gone.png"] == "no such file or directory"
    assert images.skipped["."] == "not a regular file"
    assert "null byte" in images.skipped["bad\0name.png"]


def test_a_changed_label_or_image_is_noticed(table, paint):
    path = table("csv", path=["b.png", "sub/a.png"], label=["x", "y"])
    assert to_images(path).labels.tolist() == [0, 1]
    assert to_images(table("csv", path=["b.png", "sub/a.png"], label=["y", "x"])).labels.tolist() == [1, 0]
    paint(path.parent / "b.png", "black")
    assert to_images(path).pixels[0].max() == 0


@pytest.mark.parametrize(
    ("kind", "columns", "sentence"),
    [
        ("csv", {"url": ["a"]}, r"no column of paths: shoal looked for path, .* among url"),
        ("csv", {"path": []}, "holds no rows"),
        ("csv", {"path": ["b.png", ""]}, "row 1 of .* has no path"),
        ("parquet", {"path": pa.array(["b.png", None])}, "row 1 of .* has no path"),
        ("csv", {"path": ["b.png", "b.png"], "id": ["x", "x"]}, "two rows of .* have the same id"),
        ("csv", {"path": ["b.png"], "id": [""]}, "row 0 of .* has no id"),
    ],
)
def test_mistakes(table, kind, columns, sentence):
    with pytest.raises(UserError, match=sentence):
        to_images(table(kind, **columns))


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match="no column of paths"):
        to_images(tmp_path / "empty.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="no image files in"):
        to_images(tmp_path / "folder.csv")
    (tmp_path / "dev.csv").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        to_images(tmp_path / "dev.csv")
    (tmp_path / "long.csv").write_text("path\n" + "x" * 200_000)
    with pytest.raises(UserError, match=r"cannot read .* as CSV: field larger"):
        to_images(tmp_path / "long.csv")
