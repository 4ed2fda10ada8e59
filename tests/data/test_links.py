"""One file under several names."""

import os

import pytest

from shoal.data.links import other_names


@pytest.fixture
def file(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "b.jpg").write_bytes(b"same")
    return tmp_path / "photos" / "b.jpg"


def names(*paths):
    return other_names(lambda row: paths[row], [range(len(paths))]).tolist()


def test_a_link_is_another_name_of_its_file(file):
    link = file.with_name("a.jpg")
    link.symlink_to(file)
    assert names(link, file) == [[0, 1]]  # the file itself is not the link, though that comes first
    assert names(link) == []


def test_so_are_a_hard_link_a_linked_folder_and_another_spelling(file, tmp_path):
    os.link(file, file.with_name("c.jpg"))
    (tmp_path / "album").symlink_to(file.parent)
    spelled = tmp_path / "photos" / ".." / "photos" / "b.jpg"
    paths = [tmp_path / "album" / "b.jpg", file.with_name("c.jpg"), file, spelled, file]
    assert names(*paths) == [[0, 1], [2, 1], [3, 1], [4, 1]]


def test_a_copy_is_not(file):
    file.with_name("copy.jpg").write_bytes(b"same")
    assert names(file, file.with_name("copy.jpg"), None, file.with_name("gone.jpg")) == []
