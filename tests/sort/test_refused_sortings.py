"""What would stop a sorting on the way is said before anything is done."""

import shutil

import pytest
import torch
from tests.sort.examples import planned, tree

from shoal.errors import UserError
from shoal.sort.plan import plan_sort


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
    (into / "cats/3.jpg").write_bytes(b"mine")
    refused(photos, into, "move", r"cats/[35]\.jpg and 1 more exist already: nothing is overwritten")
    (into / "cats/3.jpg").unlink()
    (into / "cats/5.jpg").unlink()
    (into / "cats/3.jpg").symlink_to("nowhere")
    refused(photos, into, "copy", r"cats/3\.jpg exists already")


def test_a_folder_that_leads_elsewhere_is_refused(photos, tmp_path):
    (tmp_path / "sorted").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sorted/cats").symlink_to(tmp_path / "elsewhere")
    refused(photos, tmp_path / "sorted", "copy", "cats is in the way and is not a folder")
    (tmp_path / "file").touch()
    refused(photos, tmp_path / "file", "copy", "file is not a folder: sort into another one")


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
    with pytest.raises(UserError, match="is listed twice but can only be moved once"):
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
    refused(photos, tmp_path / "sorted", "copy", "has 0.000 MB free: make room, or use --link")
    planned(photos, tmp_path / "sorted").carry_out("move")  # on the same disk it takes no room
