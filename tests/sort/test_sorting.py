"""Sorting into folders: what happens is what was planned, and stays inside its folder."""

import errno
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from tests.sort.examples import planned, tree

from shoal.errors import UserError
from shoal.sort import checks
from shoal.sort.plan import plan_sort
from shoal.sort.undo import undo


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
    assert text[4] == "1 image is in no cluster and stays where it is"


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


@pytest.fixture
def fat(monkeypatch):
    """A file system that refuses what FAT does, and ends names before dots and blanks."""
    create = os.open

    def refused(path, flags, *mode, **settings):
        name = os.fsdecode(path).rpartition("/")[2]
        if flags & os.O_CREAT and any(mark in name for mark in '<>:"|?*\\\n\udce9'):
            raise OSError(errno.EINVAL, "Invalid argument", path)
        return create(path, flags, *mode, **settings)

    monkeypatch.setattr(checks.os, "open", refused)


ODD = [
    b"a:b.jpg",
    b"a?b.jpg",
    b"A*B.JPG",
    b"CON.jpg",
    b"end.",
    b"end",
    b"caf\xe9.jpg",
    b"new\nline.jpg",
    b"plain [1].jpg",
]
ADAPTED = {
    *("a_b.jpg", "a_b-2.jpg", "A_B-3.JPG", "CON_.jpg", "end", "end-2", "caf_.jpg", "new_line.jpg", "plain [1].jpg"),
}


@pytest.mark.usefixtures("fat")
@pytest.mark.parametrize("how", ["copy", "move"])
def test_a_disk_that_holds_fewer_names_gets_others(tmp_path, how):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [folder / os.fsdecode(name) for name in ODD]
    for path in paths:
        path.write_bytes(os.fsencode(path.name))
    before = tree(tmp_path)
    plan = plan_sort([path.name for path in paths], paths, torch.zeros(9, dtype=torch.int64), {}, tmp_path / "sorted")
    assert "7 get another name: " in plan.summary(how)
    assert "3 get a number after their name" in plan.summary(how)
    assert tree(tmp_path) == before  # nothing is left of looking
    manifest = plan.carry_out(how)
    assert {path.name for path in (tmp_path / "sorted/cluster-00").iterdir()} == ADAPTED
    undo(manifest)
    assert tree(tmp_path) == before


@pytest.mark.usefixtures("fat")
def test_names_that_every_disk_holds_need_no_look(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "holds_any_name", lambda _: pytest.fail("looked"))
    assert planned(photos, tmp_path / "sorted").n_adapted == 0


def test_a_folder_that_cannot_be_written_is_told_later(tmp_path, monkeypatch):
    for code, held in ((errno.EACCES, True), (errno.EROFS, True), (errno.EINVAL, False), (errno.EILSEQ, False)):

        def refused(*_, code=code):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(checks.os, "open", refused)
            assert checks.holds_any_name(tmp_path) == held
    assert checks.holds_any_name(tmp_path / "not" / "yet")
    assert not list(tmp_path.iterdir())


def sorted_away(names, into):
    """A sorting of an image for each name of a cluster."""
    (into.parent / "in").mkdir()
    files = [into.parent / "in" / f"{i}.jpg" for i in range(len(names))]
    for file in files:
        file.write_bytes(b"x")
    return plan_sort([file.name for file in files], files, torch.arange(len(files)), dict(enumerate(names)), into)


def test_a_cluster_may_have_the_name_of_a_manifest(tmp_path):
    plan = sorted_away(["sorted.jsonl", "Sorted-2.JSONL"], tmp_path / "sorted")
    manifest = plan.carry_out("copy")
    assert manifest.name == "sorted-3.jsonl"
    assert set(tree(tmp_path / "sorted")) >= {"sorted.jsonl/0.jpg", "Sorted-2.JSONL/1.jpg"}
    assert undo(manifest).n_files == 2
    assert not (tmp_path / "sorted").exists()


def test_a_long_name_leaves_the_other_lines_short(tmp_path):
    lines = sorted_away(["x" * 300, "cats"], tmp_path / "sorted").summary("copy").splitlines()
    assert lines[1] == f"  {'cats':<40}  1"
    assert lines[2] == f"  {'x' * 200}  1"


def test_numbers_of_clusters_may_be_high(photos, tmp_path):
    plan = planned(photos, tmp_path / "sorted", clusters=(0, 0, 999_999_999, 0, 0, 1, -1))
    assert plan.folders == {"cluster-000000000": 4, "cats": 1, "cluster-999999999": 1}


def test_images_in_archives_are_written_under_safe_names(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "JPEG")
    jpeg, pixels = file.getvalue(), np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    (tmp_path / "own.jpg").write_bytes(b"own")
    ids = ["../../up.jpg", "deep/inside.jpg", "row 7", "own.jpg", "digit", "out.jpg"]
    paths = [None, None, None, tmp_path / "own.jpg", None, None]
    contents = [jpeg, b"bytes", jpeg, tmp_path / "own.jpg", pixels, b"left"]
    clusters = torch.tensor([0, 0, 0, 0, 0, -1])
    plan = plan_sort(ids, paths, clusters, {}, tmp_path / "sorted")
    assert "4 of them come out of archives" in plan.summary("copy")
    for how in ("move", "link"):
        with pytest.raises(
            UserError, match=r"up\.jpg lies inside an archive, a table, a video or a storage .*: use --copy\."
        ):
            plan.carry_out(how, lambda rows: (contents[row] for row in rows))
    manifest = plan.carry_out("copy", lambda rows: (contents[row] for row in rows))
    found = tmp_path / "sorted/cluster-00"
    assert {path.name for path in found.iterdir()} == {"up.jpg", "inside.jpg", "row 7.jpg", "own.jpg", "digit.png"}
    assert (found / "up.jpg").read_bytes() == (found / "row 7.jpg").read_bytes() == jpeg
    with Image.open(found / "digit.png") as image:
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), pixels)
    assert undo(manifest).n_files == 5
    assert {path.name for path in tmp_path.iterdir()} == {"own.jpg"}
