"""Every file of a folder or an archive is read, or said to be there; folders that systems fill are passed over."""

import io
import itertools
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from tests.packing import write_tar, write_zip

from shoal.data import find_source, to_images
from shoal.data.sources import find, others
from shoal.data.unread import count_kinds, skip_note
from shoal.errors import UserError
from shoal.types import Others


def encoded(image, container, **options):
    file = io.BytesIO()
    image.save(file, container, **options)
    return file.getvalue()


def picture(color="red", size=(8, 6)):
    return Image.new("RGB", size, color)


READ = {
    "a.jpg": encoded(picture(), "JPEG"),
    "b.jfif": encoded(picture(), "JPEG"),
    "c.jpe": encoded(picture(), "JPEG"),
    "d.pnm": encoded(picture(), "PPM"),
    "e.pbm": encoded(picture().convert("1"), "PPM"),
    "f.dib": encoded(picture(), "DIB"),
    "g.JP2": encoded(picture(), "JPEG2000"),
    "h": encoded(picture(), "PNG"),
    "i.jpg_large": encoded(picture(), "JPEG"),
    "j.1": encoded(picture(), "WEBP"),
    "k.tga": encoded(picture(), "TGA"),
    "l.ico": encoded(picture(), "ICO", sizes=[(8, 6)]),
    "m.png": encoded(picture(), "GIF"),  # of another kind than it says
}
NAMED = {
    "clip.MP4": "video: take frames of it with --every 2s",
    "paper.pdf": "PDF: export its pages as images",
    "logo.svg": "SVG: export it as PNG",
    "scan.jxr": "JPEG XR: export it as PNG",
    "odd.xyz": "file of an unknown kind",
    "drawing": "SVG: export it as PNG",
}
CONTENT = {"odd.xyz": bytes(range(256)) * 3, "drawing": b"<?xml version='1.0'?><svg/>"}
PLAIN = {
    "notes.txt": "text",
    "README": "text",
    "a.json": "JSON",
    "list.csv": "table",
    "a.xmp": "sidecar",
    "Thumbs.db": "file of the system",
    "x.npy": "data file",
    "nothing": "empty file",
}
HIDDEN = [".DS_Store", "._a.jpg"]


def mixed():
    files = READ | {name: CONTENT.get(name, b"\0\1\2\3") for name in NAMED}
    files |= {name: b"" if name == "nothing" else b"words" for name in PLAIN}
    return files | dict.fromkeys(HIDDEN, b"\0\5\26\7")


@pytest.fixture(params=["folder", ".zip", ".tar", ".tar.gz"])
def source(request, tmp_path):
    if request.param == "folder":
        for name, data in mixed().items():
            (tmp_path / "in").mkdir(exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)
        return tmp_path / "in"
    write = write_zip if request.param == ".zip" else write_tar
    return write(tmp_path / f"in{request.param}", mixed())


def test_every_file_is_read_or_named_or_counted(source):
    before = "" if source.is_dir() else f"{source.name}/"
    images = to_images(source, size=4)
    assert sorted(images.ids) == sorted(before + name for name in READ)
    assert dict(images.skipped) == {}
    assert dict(images.others.reasons) == {before + name: reason for name, reason in NAMED.items()}
    plain = [*PLAIN.values(), *["hidden file"] * len(HIDDEN)]
    expected = {kind: plain.count(kind) for kind in plain}
    expected |= {"video": 1, "PDF": 1, "SVG": 2, "JPEG XR": 1, "file of an unknown kind": 1}
    assert dict(images.others.counts) == expected
    assert len(mixed()) == len(images) + sum(images.others.counts.values())
    assert to_images(source, size=4).others == images.others  # from the cache


def test_only_files_whose_suffix_says_nothing_are_opened(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(find, "head_of", lambda file: (opened.append(file.name), others.head_of(file))[1])
    for name, data in mixed().items():
        (tmp_path / name).write_bytes(data)
    find_source(tmp_path)
    assert sorted(opened) == ["README", "drawing", "h", "i.jpg_large", "j.1", "nothing", "odd.xyz"]


def test_pipes_and_broken_links_are_never_opened(tmp_path, paint):
    paint(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    assert dict(to_images(tmp_path).others.counts) == {"link, pipe or device": 2}


@pytest.mark.parametrize(
    "folder", ["@eaDir", "#recycle", ".@__thumb", "$RECYCLE.BIN", "@Recycle", "System Volume Information", "#Recycle"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_folders_that_systems_fill_are_passed_over_and_told(tmp_path, paint, folder, packed):
    names = ["a.png", "b/c.png", f"{folder}/a.png", f"b/{folder}/c.png/SYNOPHOTO_THUMB_M.jpg"]
    for name in names:
        paint(tmp_path / "in" / name)
    path = tmp_path / "in"
    if packed:
        path = write_zip(tmp_path / "in.zip", {name: (path / name).read_bytes() for name in names})
    images = to_images(path)
    assert [name.removeprefix("in.zip/") for name in images.ids] == ["a.png", "b/c.png"]
    assert dict(images.others.counts) == {folder: 2}
    if not packed:  # asked for by name, it is read
        assert to_images(tmp_path / "in" / folder).ids == ["a.png"]
        if not folder.startswith("."):
            assert to_images(str(tmp_path / "in" / "*" / folder / "**" / "*.jpg")).ids[0].startswith("b/")


@pytest.mark.parametrize("name", ["photos [2024]", "a{b,c}", "what?", "*"])
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path, paint, name, monkeypatch):
    paint(tmp_path / name / "sub [1]" / "a.png")
    paint(tmp_path / name / "b.jpg")
    paint(tmp_path / "photos 2" / "wrong.jpg")
    monkeypatch.chdir(tmp_path)
    for spec in (name, f"{name}/", str(tmp_path / name)):
        assert to_images(spec, size=4).ids == ["b.jpg", "sub [1]/a.png"]
    assert to_images(f"{name}/*.jpg").ids == ["b.jpg"]
    assert to_images(f"{name}/sub [1]/*.p?g").ids == ["a.png"]
    assert to_images(f"{name}/sub*/a.png").ids == ["sub [1]/a.png"]
    write_zip(tmp_path / f"{name}.zip", {"x.png": encoded(picture(), "PNG")})
    assert to_images(f"{name}.zip").ids == [f"{name}.zip/x.png"]


@pytest.mark.parametrize(("kept", "images_read"), [(1, "1 image"), (4, "4 images")])
def test_a_tar_cut_between_two_entries_is_told(tmp_path, kept, images_read):
    names = [f"{i}.png" for i in range(6)]
    whole = write_tar(tmp_path / "whole.tar", {name: encoded(picture(), "PNG") for name in names})
    with tarfile.open(whole) as tar:
        end = tar.getmembers()[kept].offset
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:end])
    images = to_images(cut)
    assert images.ids == [f"cut.tar/{name}" for name in names[:kept]]
    reason = f"damaged after {images_read}: it ends without an end mark, perhaps cut off"
    assert dict(images.skipped) == {"cut.tar": reason}
    with pytest.raises(UserError, match="perhaps cut off"):
        to_images(cut, strict=True)
    whole.write_bytes(whole.read_bytes()[:-512])  # one block of zeros is an end
    assert dict(to_images(whole).skipped) == {}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_tars_that_were_joined_are_read_to_the_end(tmp_path, suffix):
    shards = [
        write_tar(tmp_path / f"{name}.{suffix}", {f"{name}{i}.png": encoded(picture(), "PNG") for i in range(2)})
        for name in "ab"
    ]
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(b"".join(shard.read_bytes() for shard in shards))
    images = to_images(joined, strict=True)
    assert [name.partition("/")[2] for name in images.ids] == ["a0.png", "a1.png", "b0.png", "b1.png"]


@pytest.mark.parametrize("junk", [b"\1" * 1024, b"signature: abc\n", bytes(100_000)])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_what_is_no_tar_after_an_end_mark_is_nobodys(tmp_path, suffix, junk):
    whole = write_tar(tmp_path / f"whole.{suffix}", {"a.png": encoded(picture(), "PNG")})
    whole.write_bytes(whole.read_bytes() + junk)
    assert len(to_images(whole, strict=True)) == 1


def test_an_empty_folder_says_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"no image files in .*: it is empty\.$"):
        to_images(tmp_path)
    for name in ("a.mov", "b.mov", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"only 2 videos, 1 text; --every 2s takes frames of videos\.$"):
        to_images(tmp_path)


def test_kinds_that_are_not_read_are_counted_in_the_note():
    heic = "HEIC: pip install 'shoal[formats]'"
    skipped = {f"{i}.heic": heic for i in range(300)} | {"a.jpg": "truncated", "b.jpg": "not an image"}
    note = "302 of 310 images could not be read and were skipped: "
    assert skip_note(skipped, 8) == f"{note}300 {heic}, a.jpg (truncated), b.jpg (not an image)"
    assert count_kinds(skipped, Others({"PDF": 2})) == {"HEIC": 300, "broken image": 2, "PDF": 2}
    assert count_kinds({"x.dcm": "a damaged DICOM, or no image"}, Others()) == {"DICOM": 1}


# --- tables ---

HEADINGS = ("file_name", "filepath", "file_path", "Path", "FILENAME", "Image Path", "image-file", "img")


@pytest.mark.parametrize("heading", HEADINGS)
@pytest.mark.parametrize("label", ["label", "Class", "category"])
def test_usual_headings(tmp_path, paint, heading, label):
    for name in ("a.png", "é.png"):
        paint(tmp_path / name)
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "metadata.csv").write_text(f"{heading},{label}\na.png,x\né.png,y\n", encoding=encoding)
        images = to_images(tmp_path / "metadata.csv")
        assert (images.ids, images.classes) == (["a.png", "é.png"], ("x", "y"))


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("cp1252", "not encoded as UTF-8"), ("cp932", "not encoded as UTF-8"), ("utf-16", "UTF-16"), ("utf-16-le", "16")],
)
@pytest.mark.parametrize("row", ["é.png,x", "a.png,é"])
def test_other_encodings_are_told(tmp_path, paint, encoding, told, row):
    paint(tmp_path / "a.png")
    row = row.replace("é", "語") if encoding == "cp932" else row
    (tmp_path / "t.csv").write_bytes(f"path,label\n{row}\n".encode(encoding))
    with pytest.raises(UserError, match=rf"t\.csv is .*{told}.*: save it as UTF-8\.$"):
        to_images(tmp_path / "t.csv")


def test_stray_bytes_of_a_name_on_the_disk_are_no_other_encoding(tmp_path, paint):
    paint(tmp_path / "caf\udce9.png")
    (tmp_path / "t.csv").write_bytes(b"path\ncaf\xe9.png\n")
    assert to_images(tmp_path / "t.csv").ids == ["caf\udce9.png"]


def test_a_list_in_utf_16_is_told(monkeypatch):
    find._stdin_paths.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("a.png\n".encode("utf-16"))))
    with pytest.raises(UserError, match="UTF-16: save it as UTF-8"):
        find_source("-")


def test_unreadable_entries_of_archives_are_named(tmp_path):
    """Of an entry whose suffix says nothing, the first bytes are read; those of a damaged one cannot be."""
    noise = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    path = write_zip(tmp_path / "a.zip", {"a.png": encoded(picture(), "PNG"), "odd": noise})
    data = bytearray(path.read_bytes())
    at = data.index(noise[:50]) if noise[:50] in data else data.index(b"odd") + 3
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    images = to_images(path)
    assert images.ids == ["a.zip/a.png"]
    assert sum(images.others.counts.values()) == 1


def test_many_names_are_sorted_whatever_they_are(tmp_path):
    for name in itertools.chain(READ, ("zz/a.png", "aa/b.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(READ["a.jpg"])
    assert list(find_source(tmp_path).listing().ids) == sorted([*READ, "zz/a.png", "aa/b.png"])
