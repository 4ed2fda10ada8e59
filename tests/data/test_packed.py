"""Images in zip and tar archives and in WebDataset's shards."""

import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tests.packing import write_tar, write_zip
from tests.pictures import png

from shoal.data import find_source, to_images
from shoal.data.reading import read_blob
from shoal.errors import UserError

ENDINGS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]
every_ending = pytest.mark.parametrize("ending", ENDINGS)


def write(path, members):
    return (write_zip if path.suffix == ".zip" else write_tar)(path, members)


@every_ending
def test_an_archive_is_read_in_place(tmp_path, ending, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 8, 3), dtype=np.uint8)
    members = {"readme.txt": b"text", "dog/.hidden.png": b"", "inner.zip": b"PK"}
    for i, picture in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        members[f"{'dog' if i % 2 else 'cat'}/{i:02}.PNG"] = file.getvalue()
    folder = tmp_path / "read-only"
    folder.mkdir()
    path = write(folder / f"photos{ending}", members)
    images = to_images(path)
    names = [name for name in members if name.endswith(".PNG")]
    assert images.ids == [f"photos{ending}/{name}" for name in names]
    assert np.array_equal(images.pixels, pixels.transpose(0, 3, 1, 2))
    assert images.classes == ("cat", "dog")
    assert images.targets.tolist() == [i % 2 for i in range(40)]
    assert images.skipped == {}
    assert list(folder.iterdir()) == [path], "nothing was unpacked"
    listing = find_source(path).listing()
    assert listing.path(0) is None
    monkeypatch.setattr(
        "shoal.data.sources.archive._open_archive", lambda _: pytest.fail("an untouched archive was opened")
    )
    assert to_images(path).ids == images.ids


@every_ending
def test_members_can_be_read_in_any_order_by_many_threads(tmp_path, ending):
    members = {f"{i}.png": png((i, 0, 0)) for i in range(200)}
    blobs = list(find_source(write(tmp_path / f"a{ending}", members)).listing().blobs())
    blobs.reverse()
    with ThreadPoolExecutor(8) as pool:
        assert [data for data, _ in pool.map(read_blob, blobs)] == list(members.values())[::-1]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_other_methods(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", {"a.png": png("red")}, method)
    assert to_images(path).pixels[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["photos/cat/1.png", "photos/dog/2.png"], ("cat", "dog")),
        (["./a/b/cat/1.png", "./a/b/dog/2.png"], ("cat", "dog")),
        (["cat/1.png", "cat/2.png"], ()),
        (["1.png", "cat/2.png"], ()),
        (["a/cat/1.png", "a/dog/deep/2.png"], ()),
    ],
)
def test_subfolders_below_the_one_that_all_share_are_classes(tmp_path, names, classes):
    data = {name: png("red") for name in names}
    for images in (to_images(write_zip(tmp_path / "a.zip", data)), to_images(write_tar(tmp_path / "a.tar", data))):
        assert images.classes == classes
        assert images.targets.tolist() == ([0, 1] if classes else [-1, -1])


def shards(folder, ending=".tar"):
    folder.mkdir(exist_ok=True)
    for shard, labels in enumerate([[7, 12], [7, None]]):
        members = {}
        for i, label in enumerate(labels):
            members[f"{shard}{i}.cls"] = b"" if label is None else f"{label}\n".encode()
            members[f"{shard}{i}.json"] = b"{}"
            members[f"{shard}{i}.png"] = png((shard, i, 0))
        write(folder / f"train-{shard:04}{ending}", members)
    return folder


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("spec", ["{}", "{}/train-*", "{}/train-{{0000..0001}}*"])
def test_shards_are_joined_and_numbers_beside_images_are_labels(tmp_path, ending, spec):
    images = to_images(spec.format(shards(tmp_path / "shards", ending)))
    assert images.ids == [f"train-000{shard}{ending}/{shard}{i}.png" for shard in (0, 1) for i in (0, 1)]
    assert images.classes == ("7", "12")
    assert images.targets.tolist() == [0, 1, 0, -1]
    assert images.pixels[:, :2, 0, 0].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_one_shard_is_its_own(tmp_path):
    images = to_images(shards(tmp_path) / "train-0001.tar")
    assert images.ids == ["train-0001.tar/10.png", "train-0001.tar/11.png"]
    assert (images.classes, images.targets.tolist()) == (("7",), [0, -1])


def test_images_beside_archives_are_taken_and_it_is_said(tmp_path, paint, caplog):
    paint(shards(tmp_path) / "a.png")
    assert to_images(tmp_path).ids == ["a.png"]
    assert caplog.messages == [
        f"skipping 2 archives beside the image files in {tmp_path}: give the path of an archive to read it"
    ]


@every_ending
def test_an_archive_without_images(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", {"a.txt": b"text"})
    with pytest.raises(UserError, match=r"^there are no image files in .*a\.[a-z0-9.]+: only 1 text\.$"):
        to_images(path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [b"", b"junk" * 500, b"\x1f\x8b\x08junk", b"PK\x03\x04junk"])
def test_no_archive(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*: it is damaged, or not a (zip|tar) archive \(.*\)\.$"):
        to_images(path)


@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_an_archive_that_is_no_regular_file(tmp_path, ending):
    (tmp_path / f"a{ending}").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"cannot read .*: not a regular file"):
        to_images(tmp_path / f"a{ending}")


def test_a_changed_archive_is_noticed(tmp_path):
    for color in ("red", "lime"):
        path = write_tar(tmp_path / "a.tar", {"a.png": png(color)}, format=tarfile.PAX_FORMAT)
        assert to_images(path).pixels[0, 1, 0, 0] == (255 if color == "lime" else 0)
