"""Every kind of source, what it is called, and the sentence for each mistake."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from shoal.data import DataConfig, load_images, place_on, to_images
from shoal.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def png(color, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def shard(path, blobs, paths=None, column="img", names=None, **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": blob, "path": paths[i] if paths else None} for i, blob in enumerate(blobs)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({column: pa.array(rows, kind), **others})
    if names:
        hub = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(hub).encode()})
    pq.write_table(table, path)
    return path


# --- digits ---


def test_digits_are_scikit_learns():
    images, bunch = load_images(DataConfig()), load_digits()
    assert images.pixels.shape == (1797, 3, 8, 8)
    assert images.pixels.is_contiguous()
    assert np.abs(images.pixels[:, 1].numpy() - bunch.images * 255 / 16).max() <= 0.5
    assert images.labels.tolist() == bunch.target.tolist()
    assert images.classes == tuple("0123456789")
    assert len(set(images.ids)) == 1797
    assert images.clustered.all()


def test_digits_win_over_a_folder_of_that_name(tmp_path, monkeypatch, paint):
    paint(tmp_path / "digits" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(load_images(DataConfig(path="digits"))) == 1797
    assert len(load_images(DataConfig(path="./digits"))) == 1


# --- folders ---


def test_subfolders_are_classes(tmp_path, paint):
    for name in ("dog/2.png", "cat/1.jpg", "cat/3.WEBP", "dog/.hidden.png", ".thumbs/x.png", "cat/notes.txt"):
        path = tmp_path / name
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            paint(path)
    images = to_images(tmp_path)
    assert images.ids == ["cat/1.jpg", "cat/3.WEBP", "dog/2.png"]
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1]
    assert np.array_equal(images.pixels[2], np.asarray(Image.open(tmp_path / "dog/2.png")).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "names",
    [
        ["b.png", "a.png"],
        ["a/1.png", "b/2.png", "top.png"],
        ["only/1.png", "only/2.png"],
        ["a/b/1.png", "c/2.png"],
    ],
)
def test_other_folders_are_unlabelled(tmp_path, paint, names):
    for name in names:
        paint(tmp_path / name)
    images = to_images(str(tmp_path))
    assert images.ids == sorted(names)
    assert images.classes == ()
    assert images.labels.tolist() == [-1] * len(names)


def test_links_are_followed_and_their_circles_end(tmp_path, paint):
    paint(tmp_path / "all" / "a" / "1.png")
    paint(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "all" / "a" / "up").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "over").symlink_to(tmp_path / "all" / "a")
    assert to_images(tmp_path / "all").ids == ["a/1.png", "b/2.png"]


def test_size_brings_images_to_one(tmp_path, paint):
    paint(tmp_path / "a.png", "red", size=(20, 9))
    paint(tmp_path / "b.png", "blue", size=(5, 30))
    images = load_images(DataConfig(path=str(tmp_path), size=4))
    assert images.pixels.shape == (2, 3, 4, 4)
    assert images.pixels[:, :, 1, 1].tolist() == [[255, 0, 0], [0, 0, 255]]
    with pytest.raises(UserError, match=r"a\.png has 20×9 pixels, b\.png 5×30.*--data\.size 64"):
        to_images(tmp_path)


def test_progress_counts_to_the_end(tmp_path, paint):
    for i in range(40):
        paint(tmp_path / f"{i:02}.png")
    calls = []
    images = to_images(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 40) for i in range(40)]
    assert images.ids == [f"{i:02}.png" for i in range(40)]
    for i, name in enumerate(images.ids):
        assert np.array_equal(images.pixels[i], np.asarray(Image.open(tmp_path / name)).transpose(2, 0, 1))


def test_a_list_keeps_its_order_and_names(tmp_path, paint):
    paths = [paint(tmp_path / "b.png", "red"), str(paint(tmp_path / "a.png", "blue"))]
    images = to_images(paths)
    assert images.ids == [str(path) for path in paths]
    assert images.pixels[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    with pytest.raises(UserError, match=r"no file .*c\.png"):
        to_images([*paths, tmp_path / "c.png"])
    with pytest.raises(UserError, match="empty"):
        to_images([])


# --- unreadable images ---


@pytest.fixture
def broken(tmp_path, paint):
    """A hundred files, three of them broken, each in its own way."""
    for i in range(100):
        paint(tmp_path / f"{i:03}.jpg", size=(64, 48))
    (tmp_path / "010.jpg").write_bytes((tmp_path / "010.jpg").read_bytes()[:900])
    (tmp_path / "020.jpg").write_bytes(b"")
    (tmp_path / "030.jpg").write_text("this is text")
    return tmp_path


def test_broken_files_are_skipped_with_one_warning(broken, caplog):
    expected = {"010.jpg": "truncated", "020.jpg": "empty file", "030.jpg": "not an image"}
    for _ in range(2):  # decoded, then from the cache
        caplog.clear()
        images = to_images(broken)
        assert len(images) == len(images.ids) == len(images.labels) == 97
        assert images.skipped == expected
        assert "011.jpg" in images.ids
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert record.name == "shoal"
        assert record.message.startswith("3 of 100 images could not be read and were skipped: 010.jpg (truncated)")


def test_pillows_remarks_do_not_get_out(tmp_path, paint, monkeypatch):
    paint(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # warns of the 48 pixels, fails from 60 on
    assert to_images(tmp_path).skipped == {}


@pytest.mark.parametrize("seen_before", [False, True])
def test_strict_fails_on_the_first_broken_file(broken, seen_before):
    if seen_before:
        to_images(broken)
    with pytest.raises(UserError, match=r"010\.jpg \(truncated\)"):
        load_images(DataConfig(path=str(broken), strict=True))


def test_a_file_without_permission_is_skipped(tmp_path, paint, monkeypatch):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png")
    read = Path.read_bytes

    def refuse(path):
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert to_images(tmp_path).skipped == {"a.png": "permission denied"}


def test_no_readable_image_names_the_first_reason(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match=r"none of the 2 images .* a\.png: not an image"):
        to_images(tmp_path)


# --- paths that lead nowhere ---


def test_a_missing_path_has_near_names(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"no file or folder .*did you mean .*photos\?"):
        to_images(tmp_path / "photo")
    with pytest.raises(UserError, match=r"no file or folder .*nowhere/else\.$"):
        to_images(tmp_path / "nowhere" / "else")
    with pytest.raises(UserError, match="path of the images is empty"):
        to_images("")


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"no image files in .*\.jpg .*\.parquet"):
        to_images(tmp_path)


def test_an_unlistable_folder_is_the_users_to_mend(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"cannot list the folder .*Permission denied"):
        to_images(tmp_path)


@pytest.mark.parametrize(("name", "hint"), [("a.zip", "give a folder"), ("a.png", "one image is not a data set")])
def test_an_unknown_file_type(tmp_path, name, hint):
    (tmp_path / name).write_bytes(png("red"))
    with pytest.raises(UserError, match=hint):
        to_images(tmp_path / name)


# --- Parquet ---


def test_shards_of_a_folder_are_joined(tmp_path):
    names = ["cat", "dog"]
    shard(tmp_path / "data/train-1.parquet", [png("red")], names=names, label=pa.array([1], pa.int64()))
    shard(
        tmp_path / "data/train-0.parquet",
        [png("lime")] * 2,
        names=names,
        label=pa.array([0, None], pa.int64()),
    )
    shard(tmp_path / "data/test-0.parquet", [png("blue")], names=names, label=pa.array([-1], pa.int64()))
    images = load_images(DataConfig(path=str(tmp_path)))
    shards = ["test-0.parquet#0", "train-0.parquet#0", "train-0.parquet#1", "train-1.parquet#0"]
    assert images.ids == [f"data/{name}" for name in shards]
    assert images.labels.tolist() == [-1, 0, -1, 1]
    assert images.classes == ("cat", "dog")
    assert images.pixels[:, :, 0, 0].tolist() == [[0, 0, 255], [0, 255, 0], [0, 255, 0], [255, 0, 0]]


@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (["test-00000-of-00001", "train-00000-of-00001"], [True, False]),
        (["Test", "TRAIN", "unsupervised"], [True, False, False]),
        (["deep/test-0", "deep/train-0", "train/valid-0"], [True, False, False]),
        (["test-0", "test-1"], [False, False]),
        (["train-0", "validation-0"], [False, False]),
        (["latest", "train"], [False, False]),
    ],
)
def test_shards_are_told_apart_by_their_names(tmp_path, names, held_out):
    for i, name in enumerate(names):
        shard(tmp_path / f"{name}.parquet", [png((i, 0, 0))])
    images = to_images(tmp_path)
    found = {images.pixels[i, 0, 0, 0].item(): held for i, held in enumerate(images.held_out.tolist())}
    assert [found[i] for i in range(len(names))] == held_out


def test_a_broken_image_leaves_the_others_in_their_part(tmp_path):
    shard(tmp_path / "test.parquet", [png("red"), b"broken", png("red")])
    shard(tmp_path / "train.parquet", [b"broken", png("red")])
    assert to_images(tmp_path).held_out.tolist() == [True, True, False]


def test_nothing_is_held_out_of_other_sources(tmp_path, paint):
    for i in range(2):
        paint(tmp_path / "test" / f"{i}.png")
        paint(tmp_path / "train" / f"{i}.png")
    for images in (to_images(tmp_path), to_images("digits"), to_images(np.zeros((2, 4, 4, 3), np.uint8))):
        assert images.held_out.shape == (len(images),)
        assert not images.held_out.any()


def test_paths_in_the_table_are_names_if_no_two_are_the_same(tmp_path):
    blobs = [png("red"), png("blue")]
    images = to_images(shard(tmp_path / "a.parquet", blobs, ["x.png", "y.png"], column="image"))
    assert images.ids == ["x.png", "y.png"]
    assert images.classes == ()
    assert images.labels.tolist() == [-1, -1]
    for paths in (["x.png", "x.png"], ["x.png", None]):
        assert to_images(shard(tmp_path / "b.parquet", blobs, paths)).ids == ["b.parquet#0", "b.parquet#1"]


def test_labels_without_names_are_numbered_in_order(tmp_path):
    blobs = [png("red")] * 4
    images = to_images(shard(tmp_path / "a.parquet", blobs, label=["owl", "ant", None, "owl"]))
    assert (images.classes, images.labels.tolist()) == (("ant", "owl"), [1, 0, -1, 1])
    images = to_images(shard(tmp_path / "b.parquet", blobs, fine_label=[7] * 4, coarse_label=[5, 9, -1, 5]))
    assert (images.classes, images.labels.tolist()) == (("5", "9"), [0, 1, -1, 0])


@pytest.mark.parametrize(
    ("labels", "names", "sentence"),
    [
        ([0, 4], ["cat", "dog"], r"^a\.parquet#1 has the label 4: .* 2 classes, labels are whole numbers below 2"),
        (["cat", "dog"], ["cat", "dog"], r"^a\.parquet#0 has the label 'cat': .* whole numbers"),
        ([[0], [1]], ["cat", "dog"], r"#0 has the label \[0\]"),
        ([None, [0, 1]], None, r"#1 has the label \[0, 1\]: give each image one label"),
        ([{"a": 1}, None], None, r"#0 has the label \{'a': 1\}: give each image one label"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, labels, names, sentence):
    path = shard(tmp_path / "a.parquet", [png("red")] * 2, names=names, label=labels)
    with pytest.raises(UserError, match=sentence):
        to_images(path)


def test_a_gap_in_the_table_is_skipped(tmp_path):
    images = to_images(shard(tmp_path / "a.parquet", [None, png("red")], label=[0, 1]))
    assert images.skipped == {"a.parquet#0": "no bytes in the table"}
    assert images.ids == ["a.parquet#1"]
    assert images.labels.tolist() == [1]


def test_bad_parquet(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "image": ["b"]}), tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"no column of images.*text \(string\), image \(string\)"):
        to_images(tmp_path / "text.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"cannot read .*junk\.parquet as Parquet"):
        to_images(tmp_path / "junk.parquet")
    with pytest.raises(UserError, match="no rows"):
        to_images(shard(tmp_path / "empty.parquet", []))
    shard(tmp_path / "mixed/a.parquet", [png("red")])
    shard(tmp_path / "mixed/b.parquet", [png("red")], column="image")
    with pytest.raises(UserError, match=r"b\.parquet has other columns than a\.parquet"):
        to_images(tmp_path / "mixed")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not beside the repository")
def test_a_real_shard(tmp_path):
    with pq.ParquetFile(SHARED / "cifar10" / "test-00000-of-00001.parquet") as file:
        table = file.read_row_group(0).slice(0, 200)
    pq.write_table(table, tmp_path / "slice.parquet", row_group_size=70)
    images = to_images(tmp_path / "slice.parquet")
    assert images.classes[:3] == ("airplane", "automobile", "bird")
    assert images.labels.tolist() == table["label"].to_pylist()
    for pixels, row in zip(images.pixels, table["img"].to_pylist(), strict=True):
        expected = np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(pixels, expected)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not beside the repository")
def test_real_photos_with_grey_ones_among_them(tmp_path):
    for folder in ("orange", "goldfish"):
        (tmp_path / folder).mkdir()
        for path in sorted((SHARED / "tiny-imagenet-10" / folder).iterdir())[:100]:
            (tmp_path / folder / path.name).symlink_to(path)
    images = to_images(tmp_path)
    assert images.pixels.shape == (200, 3, 64, 64)
    assert images.classes == ("goldfish", "orange")


# --- arrays ---


RGB = np.random.default_rng(1).integers(0, 256, (5, 9, 7, 3), dtype=np.uint8)
FIRST = np.ascontiguousarray(RGB.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "array",
    [
        RGB,
        FIRST,
        torch.from_numpy(FIRST),
        torch.from_numpy(RGB),
        RGB / 255,
        (RGB / 255).astype(np.float32),
        torch.from_numpy(FIRST) / 255,
        (RGB / 255).astype(">f8"),
    ],
)
def test_arrays_of_colour(array):
    images = to_images(array)
    assert torch.equal(images.pixels, torch.from_numpy(FIRST))
    assert images.labels.tolist() == [-1] * 5
    assert images.ids == [f"array#{i}" for i in range(5)]


@pytest.mark.parametrize("array", [RGB[..., 0], RGB[..., :1], FIRST[:, :1], RGB[..., 0] / 255])
def test_arrays_of_grey(array):
    assert torch.equal(to_images(array).pixels, torch.from_numpy(FIRST[:, :1]).expand(-1, 3, -1, -1))


def test_arrays_that_torch_cannot_share():
    assert torch.equal(to_images(RGB[::-1]).pixels, torch.from_numpy(FIRST).flip(0))
    frozen = FIRST.copy()
    frozen.flags.writeable = False
    assert torch.equal(to_images(frozen).pixels, torch.from_numpy(FIRST))


def test_arrays_are_resized_like_files(tmp_path):
    for i, image in enumerate(RGB):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    assert torch.equal(to_images(RGB, size=4).pixels, to_images(tmp_path, size=4).pixels)
    assert to_images(RGB[..., 0], size=4).pixels.shape == (5, 3, 4, 4)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (RGB.astype(np.float32), "values from 0 to 25.: float images lie between 0 and 1"),
        (RGB / 255 - 0.5, "values from -0.5 to 0.5"),
        (np.full((2, 4, 4), np.nan), "NaN"),
        (RGB.astype(np.int64), "type int64"),
        (RGB[0], r"shape \(9, 7, 3\).*array\[None\]"),
        (RGB.reshape(5, -1), r"shape \(5, 189\).*reshape\(n, h, w\)"),
        (RGB[:, :3], r"shape \(5, 3, 7, 3\), and its channels could be first or last"),
        (np.zeros((2, 8, 8, 4), np.uint8), "no axis is that of 1 or 3 channels"),
        (RGB[:0], "no image in it"),
        (np.array(["a", "b"]), "type <U1"),
    ],
)
def test_arrays_that_are_no_images(array, sentence):
    with pytest.raises(UserError, match=sentence):
        to_images(array)


def test_npy_is_mapped(tmp_path):
    np.save(tmp_path / "last.npy", RGB)
    np.save(tmp_path / "float.npy", FIRST / 255)
    images = load_images(DataConfig(path=str(tmp_path / "last.npy")))
    assert torch.equal(images.pixels, torch.from_numpy(FIRST))
    assert images.ids[1] == "last.npy#1"
    assert torch.equal(to_images(tmp_path / "float.npy").pixels, torch.from_numpy(FIRST))


def zipped(array):
    file = io.BytesIO()
    np.savez(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (np.array([{}, {}], dtype=object), "cannot read .*npy"),
        (np.zeros((3, 4)), r"shape \(3, 4\)"),
        (b"junk", "cannot read .*npy"),
        (b"", "cannot read .*npy"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': (((   \n", "cannot read .*npy"),
        (zipped(RGB), "cannot read .*npy"),
    ],
)
def test_bad_npy(tmp_path, content, sentence):
    path = tmp_path / "x.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(UserError, match=sentence):
        to_images(path)


def test_images_pass_through():
    images = to_images(RGB)
    assert to_images(images) is images


# --- devices ---


def test_pixels_stay_where_they_do_not_fit(monkeypatch):
    images = to_images(RGB)
    assert place_on(images, torch.device("cpu")) is images
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2 * images.pixels.nbytes, 10**12))
    assert place_on(images, torch.device("cuda")) is images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pixels_move_where_they_fit(tmp_path, paint):
    paint(tmp_path / "a.png")
    images = to_images(tmp_path)
    moved = place_on(images, torch.device("cuda"))
    assert moved.pixels.is_cuda
    assert torch.equal(moved.pixels.cpu(), images.pixels)
    assert moved.ids == images.ids
