"""The table of assignments, and that a file is either written whole or left as it was."""

import errno
import os

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.results.tables import check_suffix, write_assignments
from shoal.results.trained import Assignment
from shoal.types import Images


def write(path, ids, classes):
    n = len(ids)
    images = Images(torch.zeros(n, 3, 2, 2, dtype=torch.uint8), torch.arange(n) - 1, torch.ones(n).bool(), classes, ids)
    assignment = Assignment(torch.arange(n), torch.zeros(n), torch.zeros(n), torch.zeros(n, 4))
    write_assignments(assignment, images, path)


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "a.csv", "a.CSV"])
def test_names_that_are_not_utf8_stay_apart(tmp_path, name):
    raw = [b"bad\xff.png", b"bad\xfe.png", "größe, 1.png".encode()]
    write(tmp_path / name, [os.fsdecode(one) for one in raw], (os.fsdecode(b"caf\xe9"), "café"))
    read = pyarrow.csv.read_csv if name.lower().endswith(".csv") else pq.read_table
    table = read(tmp_path / name)
    assert table["id"].to_pylist() == [r"bad\udcff.png", r"bad\udcfe.png", "größe, 1.png"]
    assert [label or None for label in table["label"].to_pylist()] == [None, r"caf\udce9", "café"]


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"should end in \.parquet or \.csv"):
        check_suffix(tmp_path / "a.txt")


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


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []
