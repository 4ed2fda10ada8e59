"""What the cache finds again, what it does not, and what it survives."""

import json
import os
import resource
import shutil
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from shoal.data import to_images
from shoal.data.cache import CacheWriter, cache_folder, load
from shoal.data.listing import Listing
from shoal.data.reading import Reading
from shoal.data.sources.parquet import parquet_source


@pytest.fixture
def decoded(monkeypatch):
    """How many images have been decoded since the list was last cleared."""
    from shoal.data import reading

    calls, real = [], reading.open_noted

    def counting(data, min_side, scale):
        calls.append(min_side)
        return real(data, min_side, scale)

    monkeypatch.setattr(reading, "open_noted", counting)
    return calls


@pytest.fixture
def photos(tmp_path, paint):
    for name in ("cat/1.png", "cat/2.png", "dog/3.png"):
        paint(tmp_path / "photos" / name)
    return tmp_path / "photos"


def same(one, two):
    return (
        torch.equal(one.pixels, two.pixels)
        and torch.equal(one.targets, two.targets)
        and torch.equal(one.held_out, two.held_out)
        and (list(one.ids), one.classes, one.skipped) == (list(two.ids), two.classes, two.skipped)
    )


def test_a_second_start_decodes_nothing(photos, decoded):
    first = to_images(photos)
    assert len(decoded) == 3
    (photos / "cat/1.png").chmod(0o644)
    assert same(to_images(photos), first)
    assert len(decoded) == 3


def test_an_untouched_folder_is_not_even_opened(photos, monkeypatch):
    first = to_images(photos)
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda _: pytest.fail("a file was read"))
    assert same(to_images(photos), first)


def write_parquet(path, photos, labels):
    rows = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in sorted(photos.rglob("*.png"))]
    pq.write_table(pa.table({"img": rows, "label": labels}), path)


def test_new_labels_of_the_same_images_are_noticed(tmp_path, photos):
    for labels in ([0, 1, 1], [1, 0, 0]):
        write_parquet(tmp_path / "a.parquet", photos, labels)
        assert to_images(tmp_path / "a.parquet").targets.tolist() == labels


def test_the_test_part_is_kept_and_its_change_noticed(tmp_path, photos):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("test-0.parquet", "train-0.parquet"):
        write_parquet(folder / name, photos, [0, 1, 1])
    for held_out in ([True] * 3 + [False] * 3, [False] * 6):
        assert to_images(folder).held_out.tolist() == held_out
        assert to_images(folder).held_out.tolist() == held_out, "the second time from the cache"
        for path in folder.glob("*.parquet"):
            path.rename(folder / path.name.replace("test", "more"))


def test_an_untouched_parquet_is_not_read(tmp_path, photos, monkeypatch):
    write_parquet(tmp_path / "a.parquet", photos, [0, 1, 1])
    first = to_images(tmp_path / "a.parquet")
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(pytest.fail.Exception):
        parquet_source(tmp_path, ["a.parquet"]).listing()
    assert same(to_images(tmp_path / "a.parquet"), first)


def test_touched_and_moved_images_are_known_by_their_content(photos, decoded):
    first = to_images(photos)
    decoded.clear()
    for path in photos.rglob("*.png"):
        os.utime(path, (1, 1))
    assert same(to_images(photos), first)
    assert same(to_images(shutil.copytree(photos, photos.parent / "copy")), first)
    assert decoded == []


def test_any_change_is_noticed(photos, decoded, paint):
    first = to_images(photos)
    stat = (photos / "cat/1.png").stat()
    shutil.copy(photos / "cat/2.png", photos / "cat/1.png")
    changed = to_images(photos)
    assert not torch.equal(changed.pixels[0], first.pixels[0])
    assert torch.equal(changed.pixels[0], first.pixels[1])
    os.utime(photos / "cat/1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert same(to_images(photos), changed)
    (photos / "cat/2.png").rename(photos / "dog/2.png")
    assert to_images(photos).targets.tolist() == [0, 1, 1]
    paint(photos / "dog/4.png")
    assert len(to_images(photos)) == 4
    decoded.clear()
    assert to_images(photos, size=4).pixels.shape == (4, 3, 4, 4)
    assert decoded == [12] * 4  # decoded at 3 times the size at least


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def spoil(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": [0]}))


@pytest.mark.parametrize(
    ("pattern", "harm"),
    [
        ("*.u8", cut),
        ("*.u8", os.unlink),
        ("*.json", cut),
        ("*.json", spoil),
        ("*.json", lambda path: path.write_text("[]")),
        ("*.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("*.key", lambda path: path.write_text("nothing")),
        ("*.key", lambda path: path.write_bytes(b"\0\xff")),
    ],
)
def test_a_damaged_cache_is_rebuilt(photos, cache_folder, decoded, pattern, harm):
    first = to_images(photos)
    expected = to_images(photos).pixels.clone()
    del first
    (path,) = cache_folder.glob(pattern)
    harm(path)
    assert torch.equal(to_images(photos).pixels, expected)
    decoded.clear()
    to_images(photos)
    assert decoded == []


def test_two_writers_of_the_same_images(cache_folder):
    listing = Listing(["a"], [-1], (), lambda: iter([]))
    reading = Reading(height=2, width=2, kept=[0], skipped={}, digest="", notes={})
    with CacheWriter() as one, CacheWriter() as two:
        one.write(bytes(12))
        two.write(bytes(12))
        first = one.finish("k-1", listing, reading, {})
        second = two.finish("k-1", listing, reading, {})
    assert same(first, second)
    assert same(load("k-1"), first)
    assert sorted(path.suffix for path in cache_folder.iterdir()) == [".json", ".u8"]


def test_an_interruption_leaves_nothing_behind(photos, cache_folder):
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_images(photos, progress=interrupted)
    assert list(cache_folder.iterdir()) == []


def test_what_a_killed_process_left_is_swept_up(cache_folder):
    old, new = cache_folder / "old.tmp", cache_folder / "new.tmp"
    for path, age in ((old, 2 * 24 * 3600), (new, 60)):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    with CacheWriter():
        assert (old.exists(), new.exists()) == (False, True)


def in_memory(photos, caplog):
    """Load without a usable cache; exactly one note says so."""
    caplog.clear()
    images = to_images(photos)
    (record,) = caplog.records
    assert "stay in memory" in record.message
    return images


def test_an_unwritable_cache_is_done_without(photos, tmp_path, monkeypatch, caplog):
    expected = to_images(photos)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "file" / "cache"))
    images = in_memory(photos, caplog)
    assert same(images, expected)
    assert images.pixels.is_contiguous()


def test_a_full_disk_is_done_without(tmp_path, paint, cache_folder, caplog):
    for i in range(20):
        paint(tmp_path / "many" / f"{i}.png", size=(64, 64))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        images = in_memory(tmp_path / "many", caplog)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(cache_folder.iterdir()) == []
    assert same(images, to_images(tmp_path / "many"))


def test_the_cache_lies_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SHOAL_CACHE")
    assert cache_folder().name == "shoal"
