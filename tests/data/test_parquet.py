"""Parquet files as the Hugging Face hub stores images."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.pictures import png, shard

from shoal.data import DataConfig, load_images, to_images
from shoal.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"


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
    assert images.targets.tolist() == [-1, 0, -1, 1]
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
    assert images.targets.tolist() == [-1, -1]
    for paths in (["x.png", "x.png"], ["x.png", None]):
        assert to_images(shard(tmp_path / "b.parquet", blobs, paths)).ids == ["b.parquet#0", "b.parquet#1"]


def test_labels_without_names_are_numbered_in_order(tmp_path):
    blobs = [png("red")] * 4
    images = to_images(shard(tmp_path / "a.parquet", blobs, label=["owl", "ant", None, "owl"]))
    assert (images.classes, images.targets.tolist()) == (("ant", "owl"), [1, 0, -1, 1])
    images = to_images(shard(tmp_path / "b.parquet", blobs, fine_label=[7] * 4, coarse_label=[5, 9, -1, 5]))
    assert (images.classes, images.targets.tolist()) == (("5", "9"), [0, 1, -1, 0])


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
    assert images.targets.tolist() == [1]


def test_bad_parquet(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "image": [1]}), tmp_path / "text.parquet")
    with pytest.raises(UserError, match=r"no column of images.*text \(string\), image \(int64\)"):
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
    assert images.targets.tolist() == table["label"].to_pylist()
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


def test_columns_of_other_kinds_are_no_images(tmp_path):
    for kind, value in [(pa.list_(pa.uint8()), [1, 2]), (pa.string(), "text"), (pa.int64(), 3)]:
        rows = pa.array([{"bytes": value}], pa.struct([("bytes", kind)]))
        pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
        with pytest.raises(UserError, match="has no column of images"):
            to_images(tmp_path / "a.parquet")


def test_paths_that_are_no_texts_are_no_names(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.int64())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": png("red"), "path": 5}], kind)}), tmp_path / "a.parquet")
    assert to_images(tmp_path / "a.parquet").ids == ["a.parquet#0"]


def test_shards_that_differ(tmp_path):
    shard(tmp_path / "a.parquet", [png("red")], label=pa.array([3]))
    shard(tmp_path / "b.parquet", [png("red")], label=pa.array(["owl"]))
    images = to_images(tmp_path)
    assert (images.classes, images.targets.tolist()) == (("3", "owl"), [0, 1])
    pq.write_table(pa.table({"img": ["text"], "label": ["owl"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet has other columns than a\.parquet"):
        to_images(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    buffers = [None, pa.py_buffer(np.array([0, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
    names = pa.Array.from_buffers(pa.string(), 1, buffers)
    rows = pa.StructArray.from_arrays([pa.array([png("red")]), names], ["bytes", "path"])
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"cannot read .*a\.parquet as Parquet: 'utf-8' codec"):
        to_images(tmp_path / "a.parquet")
