"""Some of the images: from a row on, or a few chosen ones."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from tests.packing import write_tar, write_zip
from tests.pictures import png, shard

from shoal.data import Listing, Member, find_source, map_blobs, read_pixels
from shoal.data.decode import UnreadableError, decode
from shoal.data.reading import read_blob

COLORS = [(10 * i, 255 - 10 * i, 7) for i in range(20)]


def folder(tmp_path):
    for i, color in enumerate(COLORS):
        Image.new("RGB", (8, 6), color).save(tmp_path / f"{i:02}.png")
    return tmp_path


def parquet(tmp_path):
    for name, part in (("a", COLORS[:13]), ("b", COLORS[13:])):
        shard(tmp_path / f"{name}.parquet", [png(color) for color in part], row_group_size=5)
    return tmp_path


def members():
    return {f"{i:02}.png": png(color) for i, color in enumerate(COLORS)}


SOURCES = {
    "folder": folder,
    "list": lambda tmp_path: sorted(folder(tmp_path).iterdir()),
    "parquet": parquet,
    "zip": lambda tmp_path: write_zip(tmp_path / "a.zip", members()),
    "tar": lambda tmp_path: write_tar(tmp_path / "a.tar", members()),
    "tar.gz": lambda tmp_path: write_tar(tmp_path / "a.tar.gz", members()),
}
every_source = pytest.mark.parametrize("kind", SOURCES)


@every_source
@pytest.mark.parametrize("start", [0, 1, 4, 5, 13, 14, 19, 20])
def test_from_a_row_on(tmp_path, kind, start):
    listing = find_source(SOURCES[kind](tmp_path)).listing()
    found = list(map_blobs(lambda blob: decode(read_blob(blob)[0])[:, 0, 0], listing, start))
    assert [tuple(color) for color in found] == COLORS[start:]


@every_source
def test_chosen_rows_in_any_order(tmp_path, kind):
    listing = find_source(SOURCES[kind](tmp_path)).listing()
    rows = [7, 19, 3, 7, 0]
    pixels = read_pixels(listing, rows, 4)
    assert pixels.shape == (5, 3, 4, 4)
    assert (pixels == np.array(COLORS, np.uint8)[rows][:, :, None, None]).all()
    assert read_pixels(listing, [], 4).shape == (0, 3, 4, 4)


def test_what_cannot_be_read_any_more_is_grey(tmp_path):
    listing = find_source(folder(tmp_path)).listing()
    (tmp_path / "02.png").unlink()
    (tmp_path / "03.png").write_text("text")
    pixels = read_pixels(listing, [3, 2, 1], 4)
    assert (pixels[:2] == 128).all()
    assert pixels[2, :, 0, 0].tolist() == list(COLORS[1])


def test_rows_after_the_last_chosen_one_are_not_read():
    def blobs():
        yield from [png("red"), png("blue")]
        pytest.fail("went on")

    pixels = read_pixels(Listing(["a", "b", "c"], [-1] * 3, (), blobs), [1], 2)
    assert pixels[0, :, 0, 0].tolist() == [0, 0, 255]


def test_a_file_and_an_entry_of_the_same_bytes_have_one_fingerprint(tmp_path):
    data = png("red")
    (tmp_path / "a.png").write_bytes(data)
    same = [read_blob(blob) for blob in (data, tmp_path / "a.png", Member(lambda: data))]
    assert same == [same[0]] * 3
    assert same[0][0] == data

    def refuse():
        raise UnreadableError("encrypted")

    others = [read_blob(blob) for blob in (None, tmp_path / "gone.png", Member(refuse), np.zeros((3, 2, 2), np.uint8))]
    assert [each[0] for each in others[:3]] == ["no bytes in the table", "no such file or directory", "encrypted"]
    assert {len(each[1]) for each in [*same, *others]} == {16}


def test_few_large_images_are_held_at_a_time(monkeypatch):
    monkeypatch.setattr("shoal.data.reading._BATCH_BYTES", 100)
    taken = []

    def blobs():
        for i in range(200):
            taken.append(i)
            yield bytes(101)

    with contextlib.closing(map_blobs(len, Listing(["a"] * 200, range(200), (), blobs))) as results:
        assert next(results) == 101
    assert len(taken) < 20


def test_arrays_are_sources_as_well(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", images)
    listing = find_source(tmp_path / "a.npy").listing()
    assert np.array_equal(np.stack(list(listing.blobs())), images.transpose(0, 3, 1, 2))
    assert (list(listing.ids)[1], listing.path(0)) == ("a.npy#1", None)
    digits = find_source("digits").listing()
    assert (len(digits.ids), digits.classes, len(list(digits.blobs()))) == (1797, tuple("0123456789"), 1797)


def test_pictures_of_many_formats_come_out_of_an_archive(tmp_path):
    picture = Image.new("RGB", (16, 12), (200, 30, 40))
    other = Image.new("RGB", (16, 12), (0, 0, 255))
    content = {}
    for name, several in [("a.avif", True), ("a.gif", True), ("a.webp", True), ("a.tiff", True), ("a.bmp", False)]:
        file = io.BytesIO()
        more = {"save_all": True, "append_images": [other]} if several else {}
        picture.save(file, {"a.tiff": "TIFF"}.get(name, name[2:].upper()), **more)
        content[name] = file.getvalue()
    listing = find_source(write_zip(tmp_path / "a.zip", content)).listing()
    pixels = read_pixels(listing, range(5), 8).numpy().astype(int)
    assert np.abs(pixels - np.array([200, 30, 40])[:, None, None]).max() <= 6


def test_a_file_of_many_gigabytes_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(2**31)
    assert read_blob(tmp_path / "a.jpg")[0] == "2147483648 bytes, too many for an image"
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda _: bytearray(2**62))
    assert read_blob(tmp_path / "a.jpg")[0] == "2147483648 bytes, too many for an image"
    (tmp_path / "b.jpg").write_bytes(b"text")
    assert read_blob(tmp_path / "b.jpg")[0] == "too large for the memory"
