"""Folders and lists of image files, and files among them that cannot be read."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shoal.data import DataConfig, find_source, load_images, to_images
from shoal.data.cache import listing_key, stamp_of
from shoal.data.kinds import readers
from shoal.data.sources.folder import walk
from shoal.errors import UserError


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
    assert images.targets.tolist() == [0, 0, 1]
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
    assert images.targets.tolist() == [-1] * len(names)


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
    with pytest.raises(UserError, match="give at least one image"):
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
        assert len(images) == len(images.ids) == len(images.targets) == 97
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


# --- many files ---


NAMES = st.lists(st.lists(st.text("ab./ \U0001f600é-", min_size=1, max_size=3), min_size=1, max_size=4), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
def test_folder_by_folder_is_the_order_of_the_sorted_names(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("walk")
    for each in parts:
        path = folder.joinpath(*[part.replace("/", "") or "x" for part in each if part not in (".", "..")])
        with contextlib.suppress(OSError):  # a file is where a folder would be
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    every = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    shown = [name for name in every if not any(part.startswith(".") for part in name.split("/"))]
    assert list(walk(folder)) == sorted(shown)
    assert list(walk(folder, 2)) == sorted(name for name in shown if name.count("/") < 2)


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path, paint):
    paint(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    images = to_images(tmp_path)
    assert images.ids == ["a.png"]
    assert "too many levels of symbolic links" in images.skipped["b.png"]


def test_stamps_are_those_of_whole_lists(tmp_path, paint):
    """As they have been made since the first version, so that caches go on being found."""
    for name in ("b.x/1.png", "b/2.jpg", "a/é\n.png"):
        paint(tmp_path / name)
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    ids = ["a/gone.png", "a/é\n.png", "b.x/1.png", "b/2.jpg"]
    files = [str(tmp_path / name) for name in ids]
    stats = [None if "gone" in file else Path(file).stat() for file in files]
    looks = [stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]
    for source, origin in ((find_source(tmp_path), ["folder", str(tmp_path)]), (find_source(files[1:]), ["list"])):
        names = ids if origin[0] == "folder" else files[1:]
        origin = origin if origin[0] == "folder" else ["list", *names]
        paths, seen = (files, looks) if origin[0] == "folder" else (files[1:], looks[1:])
        assert (
            stamp_of(source, 32)
            == blake2b(json.dumps([3, 32, {}, readers(), *origin, paths, seen]).encode(), digest_size=16).hexdigest()
        )
        classes, labels = (["a", "b", "b.x"], [0, 0, 2, 1]) if origin[0] == "folder" else ([], [-1] * 3)
        whole = json.dumps([3, None, {}, readers(), classes, labels, names, [], []]).encode()
        assert listing_key(source.listing(), None) == blake2b(whole, digest_size=16).hexdigest()


@pytest.mark.slow
def test_many_files_take_little_memory(tmp_path, paint):
    first, n = paint(tmp_path / "one.png"), 10_000
    for start in range(0, n, 1000):
        folder = tmp_path / "many" / f"class {start // 5000}" / f"{start:05}"
        folder.mkdir(parents=True)
        for number in range(start, start + 1000):
            os.link(first, folder / f"image-{number:012}.png")
    measured = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "many"], capture_output=True, check=True)
    held, peak, n_ids = map(int, measured.stdout.split())
    assert n_ids == n
    assert held / n < 80  # 36 letters, where they end and a label; a list of as many names takes 93 and a Path more
    assert peak < held + 4e6  # what is hashed at a time


MEASURE = """
import sys, tracemalloc
from shoal.data import cache, find_source
tracemalloc.start()
source = find_source(sys.argv[1])
listing = source.listing()
cache.stamp_of(source, None)
print(*tracemalloc.get_traced_memory(), len(listing.ids))
"""
