"""A file is either written whole or left as it was."""

import errno
import os

import pytest

from shoal.errors import UserError
from shoal.files import atomic_file, atomic_write


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "No space left on device. Its old content is intact: free disk space, then try again."),
        (errno.EACCES, "Permission denied."),
    ],
)
def test_a_refused_write_leaves_the_old_file(tmp_path, monkeypatch, code, sentence):
    path = tmp_path / "a"
    atomic_write(path, b"old")

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(UserError) as caught:
        atomic_write(path, b"new")
    assert str(caught.value) == f"cannot write {path}: {sentence}"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"old"}


def test_what_goes_into_a_file_may_be_missing(tmp_path):
    with pytest.raises(UserError) as caught, atomic_file(tmp_path / "a") as file:
        file.write((tmp_path / "b").read_bytes())
    assert str(caught.value) == f"cannot write {tmp_path / 'a'}: {tmp_path / 'b'}: No such file or directory."
    with pytest.raises(UserError, match=r"a: image is damaged\.$"), atomic_file(tmp_path / "a"):
        raise OSError("image is damaged")


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []
