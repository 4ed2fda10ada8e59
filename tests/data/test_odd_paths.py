"""Files that are not files, names that break lines, and paths that mean something else."""

import os
import socket
from pathlib import Path
from threading import Thread

import pytest

from shoal.data import IN_MEMORY, resolve_spec, to_images
from shoal.errors import UserError


def test_what_is_no_regular_file_is_skipped(tmp_path, paint, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    paint(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "device.png").symlink_to("/dev/null")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo("pipe.png")
    # Whoever does open the pipe is let go by this, instead of waiting forever.
    writer = Thread(target=(tmp_path / "pipe.png").write_bytes, args=(b"",))
    writer.start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        images = to_images(tmp_path)
    os.close(os.open("pipe.png", os.O_RDONLY | os.O_NONBLOCK))
    writer.join()
    assert images.ids == ["a.png", "b.png"]
    odd = dict.fromkeys(["device.png", "pipe.png", "socket.png"], "not a regular file")
    assert images.skipped == odd | {"gone.png": "no such file or directory"}


@pytest.mark.parametrize("name", ["a.npy", "a.parquet"])
def test_an_array_or_table_that_is_no_regular_file(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/null")
    with pytest.raises(UserError, match=r"cannot read .*: not a regular file"):
        to_images(tmp_path / name)


def test_a_line_break_in_a_name_does_not_break_the_warning(tmp_path, paint, caplog):
    paint(tmp_path / "a.png")
    (tmp_path / "two\nlines é.png").touch()
    images = to_images(tmp_path)
    assert list(images.skipped) == ["two\nlines é.png"]
    assert caplog.messages == [r"1 of 2 images could not be read and was skipped: two\nlines é.png (empty file)"]


def test_a_path_too_long_to_exist():
    with pytest.raises(UserError, match=r"cannot read x+: File name too long\."):
        to_images("x" * 300)


def test_a_name_that_only_begins_like_a_home_folder(tmp_path, paint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(Path("~tmp") / "~$a.png")
    assert to_images("~tmp").ids == ["~$a.png"]
    assert to_images("~tmp/*.png").ids == ["~$a.png"]
    monkeypatch.chdir("~tmp")
    assert to_images(["~$a.png"]).ids == ["~$a.png"]
    with pytest.raises(UserError, match=r"there is no file or folder ~no one/x"):
        to_images("~no one/x")
    assert resolve_spec("~$a.png") == str(tmp_path / "~tmp" / "~$a.png")


def test_a_link_that_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(UserError, match=r"circle is a broken link: "):
        to_images("circle")
    assert resolve_spec("circle") == str(tmp_path / "circle")


def test_lists_with_what_is_no_file(tmp_path):
    with pytest.raises(UserError, match=r"is a folder: correct or remove it in the list of images"):
        to_images([tmp_path])
    with pytest.raises(UserError, match=r"there is no file x+: correct or remove it"):
        to_images(["x" * 300])


def test_digits_tell_of_a_folder_of_that_name(tmp_path, paint, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    to_images("digits")
    assert caplog.messages == []
    paint(Path("digits") / "a.png")
    to_images("./digits")
    assert caplog.messages == []
    to_images("digits")
    assert caplog.messages == ["reading the built-in digits: to read the folder of that name, give ./digits"]


def test_no_path_leads_to_images_given_in_python():
    with pytest.raises(UserError, match=r"images of this run were given in Python, so no path leads to them: .*\.npy"):
        to_images(IN_MEMORY)
