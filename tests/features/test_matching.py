"""Images that have come, gone, or have other names or contents than when their features were computed."""

import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from shoal.data import find_source
from shoal.data.file_stats import stat_files
from shoal.data.listing import Listing, Source
from shoal.data.reading import map_blobs, read_blob
from shoal.features import EncoderSpec
from shoal.features.embedded import Embedded
from shoal.features.matching import match, pixel_fingerprint

BMP = dict(zip(("a", "b", "c", "d"), (bytes([i]) * 64 for i in range(4)), strict=True))
"""Files of one size."""


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    for name, data in BMP.items():
        (path / f"{name}.png").write_bytes(data)
    return path


def kept(source: Source, *, stats: bool = True) -> Embedded:
    """What a folder of features has of all images, but for the features."""
    listing = source.listing()
    prints = [print_ for _, print_ in map_blobs(read_blob, listing)]
    n = len(prints)
    seen = torch.from_numpy(stat_files(listing.files)) if len(listing.files) and stats else None
    fingerprints = torch.from_numpy(np.frombuffer(b"".join(prints), np.uint8).reshape(n, 16).copy())
    spec = EncoderSpec("timm", "test_vit")
    return Embedded(
        torch.zeros(n, 1), torch.arange(n), listing.ids, torch.zeros(n), (), fingerprints, {}, spec, "", None, seen
    )


def told(folder, before):
    """Where each image is now, by its name, and what has become of it."""
    source = find_source(folder)
    found, now = match(before, source), source.listing().ids
    places = [now[row] if row >= 0 else None for row in found.rows.tolist()]
    marks = [
        "".join(letter for letter, mark in zip("rcg", each, strict=True) if mark)
        for each in zip(found.renamed, found.changed, found.gone, strict=True)
    ]
    return list(zip(places, marks, strict=True))


def nobody_reads(monkeypatch):
    monkeypatch.setattr("shoal.features.matching._content", lambda *_: pytest.fail("a file was read"))


def test_files_as_they_were_are_not_read(folder, monkeypatch):
    before = kept(find_source(folder))
    nobody_reads(monkeypatch)
    assert told(folder, before) == [("a.png", ""), ("b.png", ""), ("c.png", ""), ("d.png", "")]
    (folder / "0.png").write_bytes(b"new")
    (folder / "b.png").unlink()
    assert told(folder, before) == [("a.png", ""), (None, "g"), ("c.png", ""), ("d.png", "")]


@pytest.mark.parametrize("stats", [True, False])
def test_another_file_under_the_name_is_seen_whatever_its_size_and_time(folder, stats):
    before = kept(find_source(folder), stats=stats)
    times = (folder / "a.png").stat()
    (folder / "a.png").write_bytes(b"x" * 64)
    os.utime(folder / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(folder / "b.png", (1, 1))  # touched, and the same
    assert told(folder, before) == [(None, "c"), ("b.png", ""), ("c.png", ""), ("d.png", "")]


@pytest.mark.parametrize("stats", [True, False])
def test_names_may_be_exchanged_or_new(folder, stats):
    before = kept(find_source(folder), stats=stats)
    (folder / "a.png").rename(folder / "x")
    (folder / "b.png").rename(folder / "a.png")
    (folder / "x").rename(folder / "b.png")
    (folder / "c.png").rename(folder / "new.png")
    (folder / "d.png").write_bytes(b"y" * 64)
    assert told(folder, before) == [("b.png", "r"), ("a.png", "r"), ("new.png", "r"), (None, "c")]


def test_equal_files_are_told_apart_by_name_or_not_at_all(folder):
    for name in "bcd":
        shutil.copy(folder / "a.png", folder / f"{name}.png")
    before = kept(find_source(folder))
    (folder / "d.png").rename(folder / "e.png")
    assert [place for place, _ in told(folder, before)] == ["a.png", "b.png", "c.png", "e.png"]
    (folder / "c.png").unlink()  # which of the two is e.png?
    assert told(folder, before)[2:] == [(None, "g"), (None, "g")]


def test_a_folder_that_was_moved_or_copied(folder, tmp_path):
    before = kept(find_source(folder))
    shutil.copytree(folder, tmp_path / "elsewhere" / "2024")
    assert told(tmp_path / "elsewhere", before) == [(f"2024/{name}.png", "r") for name in "abcd"]


def test_entries_of_an_archive_and_rows_of_a_table(folder, tmp_path):
    def packed(names):
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            for name, data in names.items():
                archive.writestr(f"{name}.png", data)
        return tmp_path / "p.zip"

    before = kept(find_source(packed(BMP)))
    found = told(packed({"0": b"new", "a": BMP["b"], "c": BMP["c"], "e": BMP["d"]}), before)
    assert found == [(None, "c"), ("p.zip/a.png", "r"), ("p.zip/c.png", ""), ("p.zip/e.png", "r")]
    (tmp_path / "t.csv").write_text("path,id\n" + "".join(f"photos/{name}.png,{name}\n" for name in "abcd"))
    before = kept(find_source(tmp_path / "t.csv"))
    (folder / "b.png").unlink()
    assert told(tmp_path / "t.csv", before) == [("a", ""), (None, "g"), ("c", ""), ("d", "")]


def test_images_of_a_run_are_told_by_their_pixels():
    names, pixels = ["a", "b"], [np.full((3, 2, 2), value, np.uint8) for value in (1, 2)]
    prints = torch.from_numpy(np.frombuffer(b"".join(map(pixel_fingerprint, pixels)), np.uint8).reshape(2, 16).copy())
    spec = EncoderSpec("run", "")
    before = Embedded(torch.zeros(2, 1), torch.arange(2), names, torch.zeros(2), (), prints, {}, spec, "", (2, 2))
    assert before.of_pixels
    assert not replace(before, spec=EncoderSpec("run", "/runs/one")).of_pixels
    listing = Listing(["a", "c"], [-1, -1], (), lambda: iter(reversed(pixels)))
    found = match(before, Source((), [], lambda: listing), lambda data: data)
    assert (found.rows.tolist(), found.renamed.tolist()) == ([1, 0], [True, True])
