"""A sorting that ends anywhere can be undone, and no file is ever written over another."""

import contextlib
import errno
import io
import os
import shutil

import pytest
import torch
from PIL import Image
from tests.sort.examples import planned, tree

from shoal.errors import UserError
from shoal.sort import manifest as manifest_module
from shoal.sort import moving
from shoal.sort import plan as sorting
from shoal.sort.plan import plan_sort
from shoal.sort.undo import Undone, undo


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
    with pytest.raises(UserError, match=f"cannot {how} files into .*: No space left on device. To undo it:"):
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
    assert caught.value.__notes__ == [f"To undo it: shoal sort --undo {tmp_path}/sorted/sorted.jsonl"]


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


def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("ids", [["x0", "x0.png"], ["x0.png", "x0"], ["X0", "x0.png"], ["x0", "y/x0.png", "z/x0"]])
def test_an_ending_makes_no_name_that_another_image_has(tmp_path, ids):
    contents = [picture(colour) for colour in range(len(ids))]
    plan = plan_sort(ids, [None] * len(ids), torch.zeros(len(ids), dtype=torch.int64), {}, tmp_path / "sorted")
    manifest = plan.carry_out("copy", lambda rows: (contents[row] for row in rows))
    written = sorted((tmp_path / "sorted/cluster-00").iterdir())
    assert sorted(path.read_bytes() for path in written) == sorted(contents)
    assert {path.suffix for path in written} == {".png"}
    assert len({path.name.lower() for path in written}) == len(ids)
    assert undo(manifest) == Undone(len(ids), [])
    assert not (tmp_path / "sorted").exists()


def test_a_second_sorting_of_names_without_endings_is_refused(tmp_path):
    contents = [picture(colour) for colour in range(2)]
    plan = plan_sort(["p#0", "p#1"], [None, None], torch.tensor([0, 0]), {}, tmp_path / "sorted")
    plan.carry_out("copy", lambda rows: (contents[row] for row in rows))
    with pytest.raises(UserError, match="exists already with a file extension: nothing is overwritten"):
        plan.check("copy")


def test_what_came_meanwhile_is_not_taken_for_ours(photos, tmp_path, monkeypatch):
    into, plan = tmp_path / "sorted", planned(photos, tmp_path / "sorted")
    monkeypatch.setattr(sorting.Plan, "check", lambda *_: None)
    (into / "cats").mkdir(parents=True)
    shutil.copy(photos[0] / "a/3.jpg", into / "cats/3.jpg")
    with pytest.raises(UserError, match=r"cats/3\.jpg exists already"):
        plan.carry_out("copy")
    assert undo(into / "sorted.jsonl").left == []
    assert (into / "cats/3.jpg").exists()


@pytest.mark.parametrize("odd", ["damaged: Bad CRC-32", None])
def test_an_archive_that_was_damaged_since_is_told_with_the_way_back(tmp_path, odd):
    plan = plan_sort(["a", "b"], [None, None], torch.tensor([0, 0]), {}, tmp_path / "sorted")
    with pytest.raises(UserError, match=r"the image for cluster-00/b can no longer be read .*\. To undo it:"):
        plan.carry_out("copy", lambda _: iter([b"a", odd]))
    assert undo(tmp_path / "sorted/sorted.jsonl").left == []
    assert not (tmp_path / "sorted").exists()
    left_out = []
    manifest = plan.carry_out("copy", lambda _: iter([b"a", odd]), left_out.append)
    assert [path.name for path in (tmp_path / "sorted/cluster-00").iterdir()] == ["a"]
    assert len(left_out) == 1
    assert "the image for cluster-00/b can no longer be read" in left_out[0]
    assert undo(manifest) == Undone(1, [])
