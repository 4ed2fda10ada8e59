"""Labels that are floats or empty, and tables that are not quite what they should be."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.pictures import png, shard

from shoal.data import find_source, to_images
from shoal.errors import UserError

COLOURS = ("red", "lime", "blue", "white")


@pytest.fixture
def csv_of(tmp_path, paint):
    """Write lines, or bytes, as a CSV beside four pictures, a.png to d.png."""
    for name, color in zip("abcd", COLOURS, strict=True):
        paint(tmp_path / f"{name}.png", color)

    def write(*lines):
        path = tmp_path / "table.csv"
        path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
        return path

    return write


def labelled(csv_of, labels):
    return to_images(csv_of("path,label", *(f"{name}.png,{label}" for name, label in zip("abcd", labels, strict=True))))


# --- labels ---

LABELS = [
    ([0.0, 1.0, -1.0, None], ("0", "1"), [0, 1, -1, -1]),
    ([-1.0, -1.0, -1.0, -1.0], (), [-1] * 4),
    (["owl", "", "ant", "owl"], ("ant", "owl"), [1, -1, 0, 1]),
    (["", "", "", ""], (), [-1] * 4),
    ([0.5, 2.0, -0.5, 0.5], ("0.5", "2"), [0, 1, -1, 0]),
]


@pytest.mark.parametrize(("labels", "classes", "targets"), LABELS)
@pytest.mark.parametrize("form", ["shard", "table", "python"])
def test_negative_and_empty_labels_are_none_in_every_form(tmp_path, csv_of, form, labels, classes, targets):
    if form == "shard":
        images = to_images(shard(tmp_path / "a.parquet", [png(color) for color in COLOURS], label=labels))
    elif form == "table":
        csv_of()
        pq.write_table(pa.table({"path": [f"{name}.png" for name in "abcd"], "label": labels}), tmp_path / "b.parquet")
        images = to_images(tmp_path / "b.parquet")
    else:
        images = to_images(
            [(Image.new("RGB", (8, 6), color), label) for color, label in zip(COLOURS, labels, strict=True)]
        )
    assert (images.classes, images.targets.tolist()) == (classes, targets)


@pytest.mark.parametrize("one", [-1.0, np.float32(-1), np.float64(-1), torch.tensor(-1.0)])
def test_minus_one_of_any_type_is_no_label(one):
    images = to_images([(Image.new("RGB", (8, 6), "red"), label) for label in (7.0, one, 8, 7)])
    assert (images.classes, images.targets.tolist()) == (("7", "8"), [0, -1, 1, 0])


@pytest.mark.parametrize(
    ("labels", "classes", "targets"),
    [
        (["0.0", "1.0", "-1.0", ""], ("0", "1"), [0, 1, -1, -1]),
        (["2", "10.", "2.0", "3.00"], ("2", "3", "10"), [0, 2, 0, 1]),
        (["1.1", "1.10", "1.2", "1.1"], ("1.1", "1.10", "1.2"), [0, 1, 2, 0]),
        (["owl", "-1", "ant", ""], ("ant", "owl"), [1, -1, 0, -1]),
        (["owl", "-1.0", "7", "owl"], ("7", "owl"), [1, -1, 0, 1]),
        (["", "", "3", "-2"], ("3",), [-1, -1, 0, -1]),
        (["-", "-a", "--1", "a-1"], ("-", "--1", "-a", "a-1"), [0, 2, 1, 3]),
    ],
)
def test_labels_of_a_csv_are_numbers_if_all_are(csv_of, labels, classes, targets):
    images = labelled(csv_of, labels)
    assert (images.classes, images.targets.tolist()) == (classes, targets)


def test_floats_of_pandas_are_the_numbers_of_named_classes(tmp_path):
    labels = pa.array([1.0, None, 0.0, -1.0], pa.float64())
    images = to_images(
        shard(tmp_path / "a.parquet", [png(color) for color in COLOURS], names=["cat", "dog"], label=labels)
    )
    assert (images.classes, images.targets.tolist()) == (("cat", "dog"), [1, -1, 0, -1])
    for label in (0.5, 2.0):
        path = shard(tmp_path / "b.parquet", [png("red")], names=["cat", "dog"], label=[label])
        with pytest.raises(UserError, match=r"b\.parquet#0 has the label .* labels are whole numbers below 2"):
            to_images(path)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1], "'image' has 6 images and 'label' 2 labels: give each image one"),
        (list(range(7)), "'image' has 6 images and 'label' 7 labels"),
        (["x"], "'image' has 6 images and 'label' 1 label:"),
    ],
)
@pytest.mark.parametrize("form", [list, np.stack])
def test_columns_of_different_lengths_are_refused(form, labels, sentence):
    images = form([np.full((6, 8, 3), shade, np.uint8) for shade in range(6)])
    with pytest.raises(UserError, match=sentence):
        to_images({"image": images, "label": labels})


# --- CSV ---


@pytest.mark.parametrize(
    "lines",
    [
        ['"a.png,1', "b.png,2", "c.png,3"],
        ["a.png,1", 'b.png,"2', "c.png,3"],
        ["a.png,1", "b.png,2", 'c.png,"3'],
        ['"a".png,1', "b.png,2"],
    ],
)
def test_a_quote_that_is_not_closed_is_an_error(csv_of, lines):
    with pytest.raises(UserError, match=r"cannot read .*table\.csv as CSV: "):
        to_images(csv_of("path,label", *lines))
    images = to_images(csv_of("path,label", 'a.png,"one,', 'two"', 'b.png,"say ""x"""'))  # all of them are closed
    assert images.ids == ["a.png", "b.png"]
    assert images.classes == ("one,\ntwo", 'say "x"')


def test_spaces_around_a_path_are_kept_where_the_file_has_them(csv_of, tmp_path, paint):
    paint(tmp_path / " e.png", "black")
    (tmp_path / "f.png ").write_bytes(png("red"))
    images = to_images(csv_of("path, label", " e.png, x", " a.png , y", "f.png ,x ", "\tb.png,y"))
    assert images.ids == [" e.png", "a.png", "f.png ", "b.png"]
    assert images.pixels[:, :, 0, 0].tolist() == [[0, 0, 0], [255, 0, 0], [255, 0, 0], [0, 255, 0]]
    assert (images.classes, images.targets.tolist()) == (("x", "y"), [0, 1, 0, 1])


@pytest.mark.parametrize("name", ["ID", "Id", " id "])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_of_ids_is_known_whatever_its_case(csv_of, tmp_path, name, kind):
    path = csv_of(f"{name},path", "x1,a.png", "x2,b.png")
    if kind == "parquet":
        path = tmp_path / "table.parquet"
        pq.write_table(pa.table({name: ["x1", "x2"], "path": ["a.png", "b.png"]}), path)
    assert to_images(path).ids == ["x1", "x2"]


@pytest.mark.parametrize("column", ["path", "label", "id"])
def test_a_stray_byte_is_refused_in_every_column(csv_of, column):
    cells = {"path": b"a.png", "label": b"x", "id": b"one"}
    cells[column] = b"Stra\xdfe"
    path = csv_of("path,label,id", b",".join(cells.values()))
    with pytest.raises(UserError, match=r"table\.csv is not encoded as UTF-8, since it holds 'Stra.*save it as UTF-8"):
        to_images(path)


# --- Parquet ---


@pytest.mark.parametrize("twice", ["path", "label", "size"])
def test_two_columns_of_one_name_are_refused(csv_of, tmp_path, twice):
    csv_of()
    columns = {"path": ["a.png"], "label": ["x"], "size": [1]}
    arrays = [pa.array(values) for values in [*columns.values(), columns[twice]]]
    pq.write_table(pa.Table.from_arrays(arrays, [*columns, twice]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"a\.parquet has several columns named '{twice}': rename or remove all but"):
        to_images(tmp_path / "a.parquet")


def test_two_columns_of_images_of_one_name_are_refused(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    arrays = [pa.array([{"bytes": png(color), "path": None}], kind) for color in ("red", "lime")]
    pq.write_table(pa.Table.from_arrays(arrays, ["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has several columns named 'image'"):
        to_images(tmp_path / "a.parquet")


def test_paths_as_views_of_text_are_paths(csv_of, tmp_path):
    csv_of()
    paths = pa.array(["b.png", "a.png"], pa.string_view())
    path = tmp_path / "a.parquet"
    try:
        pq.write_table(pa.table({"path": paths, "label": [0, 1]}), path)
    except pa.ArrowNotImplementedError:
        pytest.skip("this pyarrow does not write such columns")
    assert pa.types.is_string_view(pq.read_schema(path).field("path").type)
    images = to_images(path)
    assert images.ids == ["b.png", "a.png"]
    assert images.pixels[:, :, 0, 0].tolist() == [[0, 255, 0], [255, 0, 0]]
    assert find_source(path).listing().path(1) == tmp_path / "a.png"
