"""Sorting into folders: what happens is what was planned, stays inside its folder, and can be undone."""

import contextlib
import errno
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from shoal.errors import UserError
from shoal.outputs import manifest as manifest_module
from shoal.outputs import moving, sorting
from shoal.outputs.sorting import plan_sort
from shoal.outputs.undo import undo


@pytest.fixture
def photos(tmp_path):
    """Seven small files in two folders, two of the same name."""
    folder = tmp_path / "home" / "photos"
    names = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg", "b/1.JPG", "b/5.jpg", "6.jpg"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"picture " + name.encode())
    return folder, names


def planned(photos, into, clusters=(0, 0, 1, 0, 0, 1, -1), names=None):
    folder, ids = photos
    return plan_sort(ids, [folder / name for name in ids], torch.tensor(clusters), names or {1: "cats"}, into, folder)


def tree(folder):
    """All files and links with their contents, and all folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


@pytest.mark.parametrize("how", ["copy", "move", "link"])
def test_files_go_where_the_plan_says_and_come_back(photos, tmp_path, how):
    before, into = tree(tmp_path), tmp_path / "deep" / "sorted"
    plan = planned(photos, into)
    assert tree(tmp_path) == before  # a plan writes nothing
    manifest = plan.carry_out(how)
    expected = {
        "cluster-00/1.jpg": "a/1.jpg",
        "cluster-00/2.jpg": "a/2.jpg",
        "cats/3.jpg": "a/3.jpg",
        "cluster-00/1-2.jpg": "b/1.jpg",
        "cluster-00/1-3.JPG": "b/1.JPG",
        "cats/5.jpg": "b/5.jpg",
    }
    folder, ids = photos
    for target, source in expected.items():
        assert (into / target).read_bytes() == b"picture " + source.encode()
        assert (into / target).is_symlink() == (how == "link")
        assert (folder / source).exists() == (how != "move")
    assert {name for name in tree(into) if "/" in name} == set(expected)
    assert (folder / ids[-1]).exists()
    done = undo(manifest)
    assert (done.n_files, done.left) == (6, [])
    (tmp_path / "deep").rmdir()
    assert tree(tmp_path) == before


def test_times_of_files_stay(photos, tmp_path):
    os.utime(photos[0] / "a/1.jpg", ns=(10**18, 10**18))
    planned(photos, tmp_path / "sorted").carry_out("copy")
    assert (tmp_path / "sorted/cluster-00/1.jpg").stat().st_mtime_ns == 10**18


def test_the_summary_says_what_would_happen(photos, tmp_path):
    text = planned(photos, tmp_path / "sorted").summary("move").splitlines()
    assert text[0] == f"move 6 files (0.0 MB) into {tmp_path}/sorted"
    assert text[1:3] == ["  cats        2", "  cluster-00  4"]
    assert "2 get a number after their name" in text[3]
    assert text[4] == "1 images are in no cluster and stay where they are"


HOSTILE = [
    "../../x", "/etc/passwd", "a\nb", "con", "CON.jpg", ".hidden", "..", "", "<b>cats</b>", "c:\\d", "x" * 400, "-rf",
    "cats ", "CATS", "bad\udcff", "\u202egnp", "a/b",
]  # fmt: skip


def test_hostile_names_of_clusters_stay_inside(tmp_path):
    files = [tmp_path / "in" / f"{i}.jpg" for i in range(len(HOSTILE))]
    (tmp_path / "in").mkdir()
    for file in files:
        file.write_bytes(b"x")
    before = tree(tmp_path)
    ids = [file.name for file in files]
    into = tmp_path / "sorted"
    plan = plan_sort(ids, files, torch.arange(len(files)), dict(enumerate(HOSTILE)), into)
    manifest = plan.carry_out("copy")
    assert {name: content for name, content in tree(tmp_path).items() if not name.startswith("sorted")} == before
    folders = [path.name for path in into.iterdir() if path.is_dir()]
    assert len({name.casefold() for name in folders}) == len(HOSTILE)
    for name in folders:
        assert len(os.fsencode(name)) <= 255
        assert not set(name) & set('/\\<>:"|?*\n\u202e')
        assert name[0] not in ".- "
        assert name[-1] not in ". "
        assert name.partition(".")[0].lower() != "con"
    assert {"b cats b", "cats", "CATS-2", "cluster-07", "etc passwd", "x"} <= set(folders) | {"x"}
    undo(manifest)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [b"new\nline.jpg", b"bad\xff.jpg", b"x" * 240 + b".jpg", b"-rf.jpg", b"..jpg"])
def test_odd_names_of_files_are_kept(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [folder / os.fsdecode(name), folder / "sub" / os.fsdecode(name)]
    (folder / "sub").mkdir()
    for path in paths:
        path.write_bytes(str(path).encode("utf-8", "surrogateescape"))
    before = tree(tmp_path)
    plan = plan_sort([str(path) for path in paths], paths, torch.zeros(2, dtype=torch.int64), {}, tmp_path / "sorted")
    manifest = plan.carry_out("move")
    names = {os.fsencode(path.name) for path in (tmp_path / "sorted/cluster-00").iterdir()}
    assert name in names
    assert len(names) == 2
    assert all(len(name) <= 255 for name in names)
    undo(manifest)
    assert tree(tmp_path) == before


class Member:
    """An entry of an archive."""

    def __init__(self, content):
        self.content = content

    def read(self):
        return self.content


def test_images_in_archives_are_written_under_safe_names(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "JPEG")
    jpeg, pixels = file.getvalue(), np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    (tmp_path / "own.jpg").write_bytes(b"own")
    ids = ["../../up.jpg", "deep/inside.jpg", "row 7", "own.jpg", "digit", "out.jpg"]
    paths = [None, None, None, tmp_path / "own.jpg", None, None]
    contents = [Member(jpeg), b"bytes", jpeg, tmp_path / "own.jpg", pixels, b"left"]
    clusters = torch.tensor([0, 0, 0, 0, 0, -1])
    plan = plan_sort(ids, paths, clusters, {}, tmp_path / "sorted")
    assert "4 of them come out of archives" in plan.summary("copy")
    for how in ("move", "link"):
        with pytest.raises(UserError, match=r"up\.jpg lies inside an archive or a table .*: use --copy\."):
            plan.carry_out(how, lambda: contents)
    manifest = plan.carry_out("copy", lambda: contents)
    found = tmp_path / "sorted/cluster-00"
    assert {path.name for path in found.iterdir()} == {"up.jpg", "inside.jpg", "row 7.jpg", "own.jpg", "digit.png"}
    assert (found / "up.jpg").read_bytes() == (found / "row 7.jpg").read_bytes() == jpeg
    with Image.open(found / "digit.png") as image:
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), pixels)
    assert undo(manifest).n_files == 5
    assert {path.name for path in tmp_path.iterdir()} == {"own.jpg"}


def refused(photos, into, how, match, **options):
    before = tree(into.parent)
    with pytest.raises(UserError, match=match):
        planned(photos, into, **options).carry_out(how)
    assert tree(into.parent) == before


def test_nothing_is_overwritten(photos, tmp_path):
    into = tmp_path / "sorted"
    (into / "cats").mkdir(parents=True)
    (into / "cats/5.jpg").write_bytes(b"mine")
    refused(photos, into, "move", r"cats/5\.jpg exists already: nothing is overwritten")
    (into / "cats/5.jpg").unlink()
    (into / "cats/3.jpg").symlink_to("nowhere")
    refused(photos, into, "copy", r"cats/3\.jpg exists already")


def test_a_folder_that_leads_elsewhere_is_refused(photos, tmp_path):
    (tmp_path / "sorted").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sorted/cats").symlink_to(tmp_path / "elsewhere")
    refused(photos, tmp_path / "sorted", "copy", "cats is in the way and no folder")
    (tmp_path / "file").touch()
    refused(photos, tmp_path / "file", "copy", "file is no folder: sort into another one")


def test_source_and_goal_lie_apart(photos):
    refused(photos, photos[0] / "sorted", "copy", "sorted lies inside .*photos, where the images are")
    refused(photos, photos[0], "copy", "where the images are")
    refused(photos, photos[0].parent, "move", "lie inside .*: sort into another folder")


def test_what_cannot_be_moved_is_said_beforehand(photos, tmp_path, monkeypatch):
    folder, ids = photos
    (folder / "a/1.jpg").unlink()
    (folder / "a/1.jpg").symlink_to("2.jpg")
    refused(photos, tmp_path / "sorted", "move", r"1\.jpg is a link, which may lead nowhere")
    twice = plan_sort(["x", "y"], [folder / ids[1]] * 2, torch.tensor([0, 1]), {}, tmp_path / "sorted")
    with pytest.raises(UserError, match="is there twice and can be moved once"):
        twice.carry_out("move")
    monkeypatch.setattr("os.access", lambda path, _: not str(path).endswith("/b"))
    (folder / "a/1.jpg").unlink()
    (folder / "a/1.jpg").write_bytes(b"x")
    refused(photos, tmp_path / "sorted", "move", "b cannot be written, so nothing can be moved out of it")
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(photos, tmp_path / "sorted", "copy", "the folder .* cannot be written: sort into another one")
    (folder / "a/2.jpg").unlink()
    with pytest.raises(UserError, match=r"there is no file .*2\.jpg any more"):
        planned(photos, tmp_path / "sorted")


def test_a_small_disk_is_refused(photos, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=3))
    refused(photos, tmp_path / "sorted", "copy", "has 0 MB free: make room, or use --link")
    planned(photos, tmp_path / "sorted").carry_out("move")  # on the same disk it takes no room


@pytest.mark.parametrize("how", ["copy", "move", "link"])
@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_in_the_middle_can_be_undone(photos, tmp_path, monkeypatch, how, after):
    before, count = tree(tmp_path), iter(range(100))
    real = sorting.Plan._do

    def fill(self, step, how, content, part):
        if next(count) == after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, step, how, content, part)

    monkeypatch.setattr(sorting.Plan, "_do", fill)
    with pytest.raises(UserError, match=f"cannot {how} files into .*: No space left on device. Put everything back"):
        planned(photos, tmp_path / "sorted").carry_out(how)
    assert undo(tmp_path / "sorted/sorted.jsonl").n_files == after
    assert tree(tmp_path) == before


class Crash(BaseException):
    """The process is gone: nothing after it is cleaned up."""


@pytest.mark.parametrize("how", ["copy", "move", "link"])
@pytest.mark.parametrize("other_disk", [False, True])
@pytest.mark.parametrize("after", range(0, 40, 3))
def test_a_crash_anywhere_can_be_undone(photos, tmp_path, monkeypatch, how, other_disk, after):
    """Every call of the file system is one after which the process may end."""
    before, count = tree(tmp_path), iter(range(10**6))
    into = tmp_path / "sorted"
    with monkeypatch.context() as patch:

        def end():
            if next(count) >= after:
                raise Crash

        def ends(real):
            def call(*args, **kwargs):
                end()
                result = real(*args, **kwargs)
                end()
                return result

            return call

        def link(source, target, **_):
            if other_disk and str(source).startswith(str(photos[0])):
                raise OSError(errno.EXDEV, "other disk")
            real_link(source, target)

        real_link = os.link
        patch.setattr("os.link", ends(link))
        for name in ("unlink", "mkdir", "symlink_to"):
            patch.setattr(f"pathlib.Path.{name}", ends(getattr(moving.Path, name)))
        patch.setattr("shutil.copystat", ends(shutil.copystat))
        patch.setattr(manifest_module.Writer, "intend", ends(manifest_module.Writer.intend))
        with contextlib.suppress(Crash):
            planned(photos, into).carry_out(how)
    if (into / "sorted.jsonl").exists():
        assert undo(into / "sorted.jsonl").left == []
    elif into.exists():
        into.rmdir()
    assert tree(tmp_path) == before


def test_whoever_stops_it_is_told_the_way_back(photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sorting.Plan, "_do", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        planned(photos, tmp_path / "sorted").carry_out("copy")
    assert caught.value.__notes__ == [f"Put everything back with: shoal sort --undo {tmp_path}/sorted/sorted.jsonl"]


def test_another_file_system_copies_checks_and_removes(photos, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    before, real = tree(tmp_path), os.link
    monkeypatch.setattr("os.link", lambda a, b, **_: real(a, b) if str(a).endswith(".part") else refuse())
    manifest = planned(photos, tmp_path / "sorted").carry_out("move")
    assert not (photos[0] / "a/1.jpg").exists()
    assert (tmp_path / "sorted/cluster-00/1.jpg").read_bytes() == b"picture a/1.jpg"
    assert undo(manifest).n_files == 6
    assert tree(tmp_path) == before


def test_without_hard_links_files_are_renamed_and_not_over_others(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        moving.rename(tmp_path / "a", tmp_path / "b")
    moving.rename(tmp_path / "a", tmp_path / "c")
    assert tree(tmp_path) == {"b": b"b", "c": b"a"}


def test_undo_leaves_what_has_changed(photos, tmp_path):
    into = tmp_path / "sorted"
    manifest = planned(photos, into).carry_out("copy")
    (into / "cats/3.jpg").write_bytes(b"edited")
    (into / "cats/5.jpg").unlink()
    (into / "notes.txt").touch()
    done = undo(manifest)
    assert done.n_files == 4
    assert done.left == [f"{into}/cats/3.jpg has changed since."]
    assert set(tree(into)) == {"cats", "cats/3.jpg", "notes.txt", "sorted.jsonl"}
    (into / "cats/3.jpg").unlink()
    assert undo(manifest).left == []
    assert set(tree(into)) == {"notes.txt"}


def test_undo_overwrites_nothing(photos, tmp_path):
    manifest = planned(photos, tmp_path / "sorted").carry_out("move")
    (photos[0] / "a/3.jpg").write_bytes(b"new")
    done = undo(manifest)
    assert done.left == [f"there is another file {photos[0]}/a/3.jpg: {tmp_path}/sorted/cats/3.jpg stays."]
    assert (photos[0] / "a/3.jpg").read_bytes() == b"new"
    assert done.n_files == 5


def test_a_second_sorting_has_a_manifest_of_its_own(photos, tmp_path):
    first = planned(photos, tmp_path / "sorted").carry_out("copy")
    second = planned(photos, tmp_path / "sorted", names={0: "zero", 1: "one"}).carry_out("link")
    assert [first.name, second.name] == ["sorted.jsonl", "sorted-2.jsonl"]
    undo(first)
    assert set(tree(tmp_path / "sorted")) >= {"zero/1.jpg", "one/5.jpg"}
    undo(second)
    assert tree(tmp_path / "sorted") == {}  # made by the first, when the second was in it


@pytest.mark.parametrize("target", ["../photos/6.jpg", "/etc/passwd"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(photos, tmp_path, target):
    manifest = planned(photos, tmp_path / "sorted").carry_out("copy")
    with manifest.open("a") as file:
        file.write(json.dumps({"source": None, "target": target, "digest": ""}) + "\n")
    with pytest.raises(UserError, match="names files outside of its folder"):
        undo(manifest)
    (tmp_path / "other").write_text("{}")
    with pytest.raises(UserError, match="other: it is no manifest of a sorting"):
        undo(tmp_path / "other")
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        undo(tmp_path / "none")
