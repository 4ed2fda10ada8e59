"""Undoing a sorting: all comes back, but for what has changed since; nothing outside of its folder is touched."""

import json

import pytest
import torch
from tests.sort.examples import planned, tree

from shoal.errors import UserError
from shoal.sort.plan import plan_sort
from shoal.sort.undo import Undone, undo


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


def test_undo_keeps_the_last_copy(photos, tmp_path):
    into = tmp_path / "sorted"
    manifest = planned(photos, into).carry_out("copy")
    (photos[0] / "a/3.jpg").unlink()
    done = undo(manifest)
    assert done.left == [f"{into}/cats/3.jpg stays: {photos[0]}/a/3.jpg, of which it is a copy, is gone."]
    assert (into / "cats/3.jpg").exists()


@pytest.mark.parametrize("change", ["edited", "emptied", "folder"])
def test_undo_keeps_a_copy_whose_original_has_changed(photos, tmp_path, change):
    manifest = planned(photos, tmp_path / "sorted").carry_out("copy")
    original = photos[0] / "a/3.jpg"
    original.unlink()
    if change == "folder":
        original.mkdir()
    else:
        original.write_bytes(b"" if change == "emptied" else b"picture a/4.jpg")
    done = undo(manifest)
    assert done.left == [f"{tmp_path}/sorted/cats/3.jpg stays: {original}, of which it is a copy, has changed."]
    assert (tmp_path / "sorted/cats/3.jpg").read_bytes() == b"picture a/3.jpg"
    assert done.n_files == 5
    assert len(manifest.read_text().splitlines()) == 2  # it keeps what is left


@pytest.mark.parametrize("change", ["gone", "changed", "same"])
def test_undo_keeps_what_came_out_of_an_archive_that_is_gone(tmp_path, change):
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"archive")
    arguments = (torch.tensor([0, 0]), {}, tmp_path / "sorted")
    plan = plan_sort(["a.png", "b.png"], [None, None], *arguments, archives=[archive])
    manifest = plan.carry_out("copy", lambda _: iter([b"a", b"b"]))
    if change == "gone":
        archive.unlink()
    elif change == "changed":
        archive.write_bytes(b"other")
    done = undo(manifest)
    if change == "same":
        assert not (tmp_path / "sorted").exists()
        return
    sentence = f"what came out of an archive stays: {archive}, which copies may be from, "
    assert done.left[-1] == sentence + ("is gone." if change == "gone" else "has changed.")
    assert len(done.left) == 2
    assert (tmp_path / "sorted/cluster-00/b.png").read_bytes() == b"b"


@pytest.mark.parametrize("how", ["copy", "link"])
def test_a_folder_or_a_manifest_that_was_moved_is_told(photos, tmp_path, how):
    into = tmp_path / "sorted"
    manifest = planned(photos, into).carry_out(how)
    (tmp_path / "elsewhere").mkdir()
    moved = manifest.rename(tmp_path / "elsewhere" / manifest.name)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="nothing that was sorted lies beside"):
        undo(moved)
    assert tree(tmp_path) == before
    moved.rename(manifest)
    (into / "cats").rename(into / "dogs")
    done = undo(manifest)
    assert (done.n_files, {*done.left}) == (4, {f"{into}/cats is gone: put it back, or an empty folder in its place."})
    assert set(tree(into)) == {"dogs", "dogs/3.jpg", "dogs/5.jpg", "sorted.jsonl"}
    (into / "dogs").rename(into / "cats")
    assert undo(manifest) == Undone(2, [])
    assert not into.exists()


def test_a_moved_image_that_was_deleted_is_told_again_and_again(photos, tmp_path):
    manifest = planned(photos, tmp_path / "sorted").carry_out("move")
    (tmp_path / "sorted/cats/3.jpg").unlink()
    (tmp_path / "sorted/cats/5.jpg").rename(tmp_path / "kept.jpg")
    reasons = {
        f"{tmp_path}/sorted/cats/{n}.jpg is gone, and so is {photos[0]}/{f}/{n}.jpg." for n, f in ((3, "a"), (5, "b"))
    }
    assert {*undo(manifest).left} == reasons
    assert {*undo(manifest).left} == reasons
    (tmp_path / "kept.jpg").rename(photos[0] / "b/5.jpg")
    assert len(undo(manifest).left) == 1


def test_an_undo_that_was_killed_at_its_end_is_done(photos, tmp_path, monkeypatch):
    manifest = planned(photos, tmp_path / "sorted").carry_out("copy")
    with monkeypatch.context() as patch:
        patch.setattr(type(manifest), "rmdir", lambda _: exit(1))
        with pytest.raises(SystemExit):
            undo(manifest)
    assert not manifest.exists()
    assert {path.name for path in (tmp_path / "sorted").iterdir()} == {"cats", "cluster-00"}


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
    with pytest.raises(UserError, match="other: it is not the manifest of a sort"):
        undo(tmp_path / "other")
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        undo(tmp_path / "none")
    with pytest.raises(UserError, match="is a folder: give the manifest in it"):
        undo(manifest.parent)


def tampered(photos, tmp_path, header, *steps):
    """Copies, whose manifest has another header and further steps; sorted/link leads to elsewhere/."""
    manifest = planned(photos, tmp_path / "sorted").carry_out("copy")
    first, *lines = manifest.read_text().splitlines()
    lines = [json.dumps({**json.loads(first), **header}), *lines, *map(json.dumps, steps)]
    manifest.write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "elsewhere/empty").mkdir(parents=True)
    (tmp_path / "elsewhere/mine").write_bytes(b"mine")
    (tmp_path / "sorted/link").symlink_to(tmp_path / "elsewhere")
    return manifest


def refused(manifest, sentence):
    before = tree(manifest.parents[1])
    with pytest.raises(UserError, match=sentence):
        undo(manifest)
    assert tree(manifest.parents[1]) == before


STEP = {"source": None, "target": "cats/3.jpg", "digest": ""}


@pytest.mark.parametrize(
    ("header", "steps"),
    [
        ({"part": "link/mine"}, []),
        ({"part": ""}, []),
        ({"part": "cats/5.jpg"}, []),
        ({"folders": ["link/empty"]}, []),
        ({}, [STEP | {"target": "link/empty/x"}]),
        ({}, [STEP | {"target": "mine"}]),
        ({}, [STEP | {"target": "cats/."}]),
        ({}, [STEP | {"source": "relative.jpg"}]),
    ],
)
def test_only_what_a_sorting_writes_is_undone(photos, tmp_path, header, steps):
    refused(tampered(photos, tmp_path, header, *steps), "names files outside of its folder")


@pytest.mark.parametrize(
    ("header", "steps"),
    [
        ({"part": 5}, []),
        ({"part": "a\0b"}, []),
        ({"folders": [["a"]]}, []),
        ({"how": {}}, []),
        ({}, [STEP | {"target": 5}]),
        ({}, [STEP | {"source": 5}]),
        ({}, [STEP | {"source": "/a\0b"}]),
        ({}, [[1]]),
    ],
)
def test_a_manifest_of_other_things_is_none(photos, tmp_path, header, steps):
    refused(tampered(photos, tmp_path, header, *steps), "it is not the manifest of a sort")


def test_a_manifest_that_is_nested_too_deeply_is_none(photos, tmp_path):
    manifest = tampered(photos, tmp_path, {})
    manifest.write_text("[" * 100_000)
    refused(manifest, "it is not the manifest of a sort")
