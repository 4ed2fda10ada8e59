"""Tables of paths, in CSV and Parquet."""

import csv

import numpy as np
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
    assert (images.classes, images.targets.tolist()) == ((), [-1] * 4)
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
    assert (images.ids, images.classes, images.targets.tolist()) == (ids, classes, numbers)


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
    assert to_images(path).targets.tolist() == [0, 1]
    assert to_images(table("csv", path=["b.png", "sub/a.png"], label=["y", "x"])).targets.tolist() == [1, 0]
    paint(path.parent / "b.png", "black")
    assert to_images(path).pixels[0].max() == 0


@pytest.mark.parametrize(
    ("kind", "columns", "sentence"),
    [
        ("csv", {"url": ["a"]}, r"no column of paths: shoal looked for path, .* among url"),
        ("csv", {"path": []}, "has no rows"),
        ("csv", {"path": ["b.png", ""]}, "row 2 of .* has no path"),
        ("parquet", {"path": pa.array(["b.png", None])}, "row 2 of .* has no path"),
        ("csv", {"path": ["b.png", "b.png"], "id": ["x", "x"]}, "two rows of .* have the same id"),
        ("csv", {"path": ["b.png"], "id": [""]}, "row 1 of .*, not counting the header, has no id"),
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


def test_tables_as_spreadsheets_write_them(tmp_path):
    (tmp_path / "a.csv").write_text("path;label\nb.png;x\n")
    with pytest.raises(UserError, match=r"among path;label; separate the columns by commas\.$"):
        to_images(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("path,label\nb.png,x\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"b\.csv is encoded as UTF-16: save it as UTF-8\.$"):
        to_images(tmp_path / "b.csv")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_path_with_a_zero_byte_is_skipped(table, kind):
    path = table(kind, path=["b.png", "zero\0.png"])
    assert to_images(path).skipped == {"zero\0.png": "embedded null byte"}


def test_texts_that_are_not_utf8(tmp_path):
    buffers = [None, pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
    pq.write_table(pa.table({"path": pa.Array.from_buffers(pa.string(), 1, buffers)}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet as Parquet: 'utf-8' codec"):
        find_source(tmp_path / "a.parquet")
