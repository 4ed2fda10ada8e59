"""Images in data sets, iterables, dicts and tables of Python."""

import io
import resource
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from shoal.data import read_given, to_images
from shoal.data.sources.labels import classes_of
from shoal.errors import UserError

RGB = np.random.default_rng(1).integers(0, 256, (10, 9, 7, 3), dtype=np.uint8)
FIRST = torch.from_numpy(np.ascontiguousarray(RGB.transpose(0, 3, 1, 2)))
PICTURES = [Image.fromarray(image) for image in RGB]
LETTERS = list("abcdefghij")


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    """Decoded images of these tests alone."""


class Own(Dataset):
    """A data set of one's own: whatever a function gives for an index."""

    def __init__(self, item=lambda i: (PICTURES[i], i % 3), n=10):
        self.item, self.n = item, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return self.item(index)


class Stream(IterableDataset):
    def __iter__(self):
        return ({"image": picture, "label": "x"} for picture in PICTURES)


class Lazy(dict):
    """A dictionary that loads its values when asked."""

    def __getitem__(self, key):
        return PICTURES[LETTERS.index(key)]


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def of_opened(image):
    """As files come from ``Image.open``: not loaded yet."""
    return Image.open(io.BytesIO(png(image)))


FORMS = {
    "data set": lambda: Own(),
    "of tensors": lambda: Own(lambda i: (FIRST[i].float() / 255, i)),
    "of dicts": lambda: Own(lambda i: {"img": RGB[i], "label": None}),
    "stream": lambda: Stream(),
    "joined": lambda: ConcatDataset([Subset(Own(), range(4)), Subset(Own(), range(4, 10))]),
    "pictures": lambda: PICTURES,
    "opened": lambda: [of_opened(picture) for picture in PICTURES],
    "tuple": lambda: tuple(RGB),
    "tensors": lambda: list(FIRST),
    "fractions": lambda: [image.astype(np.float16 if i % 2 else np.float64) / 255 for i, image in enumerate(RGB)],
    "generator": lambda: (picture for picture in PICTURES),
    "map": lambda: map(torch.from_numpy, RGB),
    "objects": lambda: np.array([*PICTURES, None], dtype=object)[:10],
    "bytes": lambda: [png(picture) for picture in PICTURES],
    "dict": lambda: Lazy(dict.fromkeys(LETTERS)),
    "rows": lambda: {"image": PICTURES, "label": LETTERS},
    "columns": lambda: {"pixel_values": FIRST, "label": torch.arange(10)},
    "transparent": lambda: [picture.convert("RGBA") for picture in PICTURES],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_pixels(form):
    given = read_given(FORMS[form]())
    assert torch.equal(given.images.pixels, FIRST)
    assert given.rows.tolist() == list(range(given.n)) == list(range(10))
    assert given.images.ids == (LETTERS if form == "dict" else [str(i) for i in range(10)])


def test_paths_in_every_form(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(10)]
    for file, picture in zip(files, PICTURES, strict=True):
        picture.save(file)
    texts = [str(file) for file in files]
    labelled = zip(texts, LETTERS, strict=True)
    for given in (np.array(files, dtype=object), np.array(texts), (text for text in texts), labelled):
        images = to_images(given)
        assert torch.equal(images.pixels, FIRST)
        assert images.ids == texts
    assert images.classes == tuple(LETTERS)
    assert to_images(dict(zip(LETTERS, files, strict=True))).ids == LETTERS


def test_tables_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    texts = [str(tmp_path / f"{i}.png") for i in range(10)]
    for text, picture in zip(texts, PICTURES, strict=True):
        picture.save(text)
    assert to_images(pandas.Series(texts, index=LETTERS)).ids == texts
    assert to_images(pandas.Series(PICTURES, index=[*LETTERS[:9], "a"])).ids[-1] == "a#2"
    table = pandas.DataFrame({"n": range(10), "File Name": texts, "label": ["cat", "dog"] * 5})
    images = to_images(table)
    assert torch.equal(images.pixels, FIRST)
    assert images.ids == texts
    assert images.classes == ("cat", "dog")
    holed = read_given(pandas.Series([*texts[:2], None, *texts[3:]]))
    assert holed.rows.tolist() == [0, 1, *range(3, 10)]
    with pytest.raises(UserError, match=r"no column of paths or images.*\(a, b\)"):
        to_images(pandas.DataFrame({"a": [1], "b": [2]}))


def test_what_pandas_has_for_missing_values(tmp_path, caplog):
    pandas = pytest.importorskip("pandas")
    texts = [str(tmp_path / f"{i}.png") for i in range(3)]
    for text, picture in zip(texts, PICTURES, strict=False):
        picture.save(text)
    labels = pandas.array([1, None, 2], dtype="Int64")
    assert to_images(pandas.DataFrame({"path": texts, "label": labels})).targets.tolist() == [0, -1, 1]
    assert not caplog.records
    table = pandas.DataFrame({"path": [float("nan"), texts[0], pandas.NA, pandas.NaT], "label": list("abca")})
    images = to_images(table)
    assert (images.ids, images.skipped) == ([texts[0]], dict.fromkeys("023", "it is None"))
    assert to_images(pandas.Series([texts[0], pandas.NA], index=["a", "b"])).ids == [texts[0]]


def test_na_is_no_label_and_is_never_asked_whether_it_is_true(monkeypatch):
    class Missing:
        def __bool__(self):
            raise TypeError("boolean value of NA is ambiguous")

        def __ne__(self, other):
            return self

        __hash__ = None

    na, nat = Missing(), Missing()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(NA=na, NaT=nat))
    assert classes_of(["b", na, "a", nat, np.float32("nan"), Decimal("nan")])[0].tolist() == [1, -1, 0, -1, -1, -1]


@pytest.mark.slow
def test_arrays_in_data_sets_of_hugging_face_keep_their_type():
    datasets = pytest.importorskip("datasets")
    dark = [image // 2 for image in RGB]
    shape = dark[0].shape
    declared = datasets.Features({"image": datasets.Array3D(shape, "uint8"), "label": datasets.Value("string")})
    rows = {"image": dark, "label": [*"ababababa", None]}
    data = datasets.Dataset.from_dict(rows, features=declared)
    nested = datasets.Dataset.from_dict({"img": dark})
    for each in (data, data.with_format("torch"), data.to_iterable_dataset(), nested):
        images = to_images(each)
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), dark)
        assert not images.ranges
    assert to_images(data).targets.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, -1]
    halves = data.with_transform(lambda batch: {"image": [np.asarray(each) / 255 for each in batch["image"]]})
    assert np.array_equal(to_images(halves).pixels.permute(0, 2, 3, 1).numpy(), dark)


@pytest.mark.slow
def test_data_sets_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    kinds = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    rows = {"picture": PICTURES, "kind": [i % 2 for i in range(10)]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    arrays = data.with_transform(lambda batch: {"pixel_values": [np.asarray(each) for each in batch["picture"]]})
    for each in (data, data.to_iterable_dataset(), arrays, data.with_format("torch")):
        images = to_images(each)
        assert torch.equal(images.pixels, FIRST)
    images = to_images(data)
    assert images.targets.tolist() == rows["kind"]
    assert images.classes == ("cat", "dog")
    two = datasets.Dataset.from_dict(
        {"left": PICTURES[:2], "right": PICTURES[2:4]},
        features=datasets.Features({"left": datasets.Image(), "right": datasets.Image()}),
    )
    with pytest.raises(UserError, match=r"several columns of images, left, right.*select_columns\(\['left'\]\)"):
        to_images(two)
    assert torch.equal(to_images(two.select_columns(["right"])).pixels, FIRST[2:4])
    with pytest.raises(UserError, match=r"several splits, 'train'.*data\['train'\]"):
        to_images(datasets.DatasetDict({"train": data}))


@pytest.mark.slow
def test_torchvision_names_its_classes():
    fake = pytest.importorskip("torchvision").datasets.FakeData(6, (3, 8, 8), num_classes=3)
    fake.classes = ["ant", "bee", "cow"]
    images = to_images(ConcatDataset([Subset(fake, [0, 1, 2]), Subset(fake, [3])]))
    assert images.classes == ("ant", "bee", "cow")
    assert images.targets.tolist() == [int(fake[i][1]) for i in range(4)]


@pytest.mark.parametrize(
    ("labels", "targets", "classes"),
    [
        (["b", None, "a"], [1, -1, 0], ("a", "b")),
        ([np.int64(5), torch.tensor(3), -1], [1, 0, -1], ("3", "5")),
        ([float("nan"), 2.0, 2], [-1, 0, 0], ("2",)),
    ],
)
def test_labels_of_any_kind(labels, targets, classes):
    images = to_images(list(zip(PICTURES, labels, strict=False)))
    assert images.targets.tolist() == targets
    assert images.classes == classes


def test_labels_that_are_no_single_values_are_left_out(caplog):
    for label in ({"boxes": [1]}, np.zeros(4), [1, 2]):
        assert to_images([(picture, label) for picture in PICTURES]).targets.tolist() == [-1] * 10
    assert "labels that are not single values are left out" in caplog.text


def test_sizes_and_modes_may_differ():
    mixed = [PICTURES[0].resize((20, 11)), PICTURES[1].convert("L"), PICTURES[2].convert("P"), RGB[3], FIRST[4] / 255]
    mixed += [PICTURES[5].convert("CMYK"), PICTURES[6].convert("1"), RGB[7, ..., 0].astype(np.uint16)]
    images = to_images(mixed, size=6)
    assert images.pixels.shape == (8, 3, 6, 6)
    assert torch.equal(images.pixels[3], to_images(RGB[3:4], size=6).pixels[0])
    with pytest.raises(UserError, match=r"differ in size \(0 has 20×11 pixels, 1 7×9\)"):
        to_images(mixed)


def test_pictures_are_turned_upright_as_files_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    PICTURES[0].save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(to_images([opened]).pixels, to_images(tmp_path).pixels)


def test_more_than_8_bits_have_one_range():
    deep = RGB.astype(np.uint16) * 16
    images = to_images(list(deep))
    assert torch.equal(images.pixels, to_images(deep).pixels)
    assert images.ranges == {"uint16": (0.0, 4095.0)}
    later = to_images((image // 2 for image in deep), ranges=images.ranges)
    assert torch.equal(later.pixels, to_images(deep // 2, ranges=images.ranges).pixels)
    with pytest.raises(UserError, match="a generator can be read only once"):
        to_images(image for image in deep)
    greys = [Image.fromarray(image[..., 0]) for image in deep]
    assert greys[0].mode == "I;16"
    assert torch.equal(to_images(greys).pixels, to_images(deep[..., 0]).pixels)


def fails_at_7(index):
    if index == 7:
        raise RuntimeError("no route\nto the disk")
    return PICTURES[index]


BROKEN = {
    "raises": (Own(fails_at_7), "RuntimeError: no route to the disk"),
    "none": ([*RGB[:7], None, *RGB[8:]], "it is None"),
    "other": ([*RGB[:7], 3.5, *RGB[8:]], "it is not an image but of type float"),
    "NaN": ([*RGB[:7], np.full((9, 7), np.nan), *RGB[8:]], "it holds NaN or infinity"),
    "empty": ([*RGB[:7], RGB[0, :0], *RGB[8:]], r"its shape is \(0, 7, 3\): it has no pixels"),
    "no width": ([*PICTURES[:7], Image.new("L", (0, 4)), *PICTURES[8:]], "its size is 0 × 4"),
    "channels": ([*RGB[:7], np.zeros((9, 7, 4), np.uint8), *RGB[8:]], "without an axis of 1 or 3 channels"),
    "ambiguous": ([*RGB[:7], np.zeros((3, 3, 3), np.uint8), *RGB[8:]], "channels could be first or last"),
    "batch": ([*RGB[:7], RGB, *RGB[8:]], "that of a batch"),
    "bool": ([*RGB[:7], RGB[7] > 9, *RGB[8:]], "its type is bool"),
    "cut": ([*PICTURES[:7], Image.open(io.BytesIO(png(PICTURES[7])[:60])), *PICTURES[8:]], "."),
    "no bytes": ([*RGB[:7], b"no image", *RGB[8:]], "not an image"),
    "no file": ([*RGB[:7], {"image": b""}, *RGB[8:]], "empty file"),
    "other keys": ([*RGB[:7], {"foo": 1}, *RGB[8:]], "it has no key 'image'"),
    "closed": ([*RGB[:7], Own, *RGB[8:]], "it is not an image but of type type"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_item_is_skipped_by_its_index(fault, caplog):
    items, reason = BROKEN[fault]
    given = read_given(items)
    assert given.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert torch.equal(given.images.pixels, FIRST[given.rows])
    assert [*given.images.skipped] == ["7"]
    assert "1 of 10 images could not be read and was skipped: 7 (" in caplog.text
    assert given.in_order(torch.arange(9), -1.0).tolist() == [0, 1, 2, 3, 4, 5, 6, -1, 7, 8]
    with pytest.raises(UserError, match=f"cannot read the image 7 \\(.*{reason}"):
        read_given(items, strict=True)


def test_a_missing_file_among_images_is_skipped_by_its_path(caplog):
    given = read_given([*RGB[:7], "nowhere.png", "nowhere.png", *RGB[9:]])
    assert given.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 9]
    assert [*given.images.skipped] == ["nowhere.png", "nowhere.png#8"]
    assert "nowhere.png (no such file or directory)" in caplog.text


def test_a_length_that_lies(caplog):
    assert read_given(Own(n=12)).rows.tolist() == list(range(10))
    assert "10 (IndexError: list index out of range), 11 (IndexError" in caplog.text
    assert len(to_images(Own(n=3))) == 3


def consumed():
    generator = (picture for picture in PICTURES)
    to_images(generator)
    return generator


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda: iter(()), "make a new one for each call, since it can be read only once"),
        (consumed, "make a new one for each call, since it can be read only once"),
        (dict, "give at least one image"),
        (lambda: Own(n=0), "give at least one image"),
        (lambda: PICTURES[0], r"one image was given: put it into a list, \[image\]"),
        (lambda: DataLoader(Own(), batch_size=2), r"give its data set, loader\.dataset"),
        (lambda: list(RGB.astype(np.float32)), r"image 0 contains values from \d to 2.*scale them.*data\.range"),
        (lambda: list(FIRST / 128 - 1.0), "image 0 contains values from -.*leave out what normalises them"),
        (lambda: (PICTURES[i] if i < 3 else 1 / 0 for i in range(5)), "failed at item 3 with ZeroDivisionError"),
        (lambda: Own(lambda _: None), "none of the 10 images could be read; the first, 0: it is None"),
        (lambda: type("Endless", (Dataset,), {"__getitem__": fails_at_7})(), "the Endless does not say how many"),
        (lambda: [[1, 2], [3, 4]], "it is not an image but of type list"),
        (lambda: np.array([["a", "b"]]), r"has shape \(1, 2\)"),
        (lambda: {"image": RGB[0], "label": 3}, r"one item was given, with 'image' and 'label': put it into a list"),
        (lambda: np.array(None, dtype=object), r"has shape \(\)"),
        (lambda: Own, r"a class was given: make an object of it, Own\(…\)"),
        (lambda: 3, "cannot take images from an object of type int"),
    ],
)
def test_what_holds_no_images(given, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        to_images(given())
    assert "\n" not in str(error.value)


def test_fractions_of_another_kind_than_those_known_are_refused():
    ranges = to_images(RGB / 255).ranges
    for given in (RGB.astype(np.float64), list(RGB.astype(np.float64))):
        with pytest.raises(UserError, match="must be between 0 and 1"):
            to_images(given, ranges=ranges)
        assert torch.equal(to_images(given, ranges={"any": (0.0, 255.0)}).pixels, FIRST)


def test_pixels_are_mapped_and_leave_no_file(tmp_path):
    images = to_images(Own(n=10))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path / "cache") in maps.read_text()
    assert list((tmp_path / "cache").iterdir()) == []
    assert torch.equal(images.pixels, FIRST)


@pytest.mark.parametrize("room", [500, 20_000])
def test_a_full_disk_leaves_pixels_in_memory(room, caplog):
    rgb = [np.random.default_rng(i).integers(0, 256, (40, 40, 3)).astype(np.uint8) for i in range(10)]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
    try:
        images = to_images(rgb)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), rgb)
    assert "they stay in memory; set SHOAL_CACHE" in caplog.text


def test_progress_knows_the_number_where_there_is_one():
    seen = []
    to_images(Own(), progress=lambda done, total: seen.append((done, total)))
    to_images(iter(RGB), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 10) for i in range(1, 11)] + [(i, i) for i in range(1, 11)]


def test_a_table_of_arrow_is_read_as_one_of_pandas(tmp_path):
    for name, image in zip("ab", PICTURES, strict=False):
        image.save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "a.png")]
    images = to_images(pa.table({"path": paths, "label": ["x", None, "y"]}))
    assert images.ids == [*paths[:2], f"{paths[0]}#2"]
    assert images.targets.tolist() == [0, -1, 1]
    with pytest.raises(UserError, match=r"no column of paths or images: .* \(label\)"):
        to_images(pa.table({"label": ["x"]}))
    holed = to_images(pa.table({"path": [paths[0], None, paths[1]]}))
    assert (holed.ids, holed.skipped) == (paths[:2], {"1": "it is None"})


def test_a_path_that_is_listed_twice_is_two_images(tmp_path):
    PICTURES[0].save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    a, b = (str(tmp_path / name) for name in ("a.png", "b.png"))
    images = to_images([a, b, a, b])
    assert images.ids == [a, f"{a}#2"]
    assert [*images.skipped] == [b, f"{b}#2"]


def test_a_tensor_without_plain_numbers_is_refused():
    with pytest.raises(UserError, match="meta or a quantized tensor"):
        to_images(torch.empty(2, 3, 4, 4, device="meta"))
    with pytest.raises(UserError, match="sparse or nested"):
        to_images(torch.nested.nested_tensor([torch.rand(3, 4, 4)], layout=torch.jagged))
