"""A drive that goes away is told from broken files."""

import errno
import os
import zipfile

import pytest
from tests.commands import photos

from shoal.data import find_source, load_images
from shoal.data.images import DataConfig
from shoal.data.listing import Listing, Member
from shoal.data.reach import LostError, Reach, out_of_reach
from shoal.data.reading import read_blob

GONE = os.strerror(errno.ENOENT).lower()


@pytest.fixture
def listing(tmp_path):
    return find_source(photos(tmp_path / "p", 4)).listing()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_what_may_be_there_another_time(code):
    def fail():
        raise OSError(code, os.strerror(code))

    reason, _ = read_blob(Member(fail))
    assert out_of_reach(reason)
    assert out_of_reach(OSError(code, ""))
    for other in ("not an image", os.strerror(errno.EACCES).lower(), ValueError("x"), OSError(errno.EISDIR, "")):
        assert not out_of_reach(other)


def test_a_deleted_file_is_no_lost_drive(listing):
    reach = Reach(listing)
    assert not reach.is_lost(0, GONE)  # nothing has been read that could be looked for
    reach.saw(0)
    reach.saw(1)
    assert not reach.is_lost(2, GONE)
    listing.path(1).unlink()
    assert not reach.is_lost(2, GONE)
    listing.path(0).unlink()
    assert reach.is_lost(2, GONE)
    listing.path(3).unlink()
    listing.path(3).symlink_to("nowhere")
    assert not reach.is_lost(3, GONE)


def test_bad_sectors_are_fewer_than_a_broken_drive_has(listing):
    reach, reason = Reach(listing), os.strerror(errno.EIO).lower()
    assert [reach.is_lost(row, reason) for row in range(4)] == [False] * 4
    reach.saw(0)
    assert [reach.is_lost(row, reason) for row in range(10)] == [False] * 9 + [True]
    assert not Reach(Listing(["a"], [-1], (), lambda: iter(()))).is_lost(0, GONE)


@pytest.mark.usefixtures("own_cache")
def test_training_images_are_not_given_up(tmp_path, monkeypatch):
    folder = photos(tmp_path / "drive" / "p", 40)
    read = read_blob
    count = []

    def unplugged(blob):
        count.append(blob)
        if len(count) == 20:
            folder.parent.rename(tmp_path / "away")
        return read(blob)

    monkeypatch.setattr("shoal.data.reading.read_blob", unplugged)
    with pytest.raises(LostError, match=r"cannot be reached any more .*: bring their folder or drive back, then run"):
        load_images(DataConfig(str(folder)))
    (tmp_path / "away").rename(folder.parent)
    assert len(load_images(DataConfig(str(folder)))) == 40


def test_an_archive_on_a_lost_drive_is_not_damaged(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a.png", b"x")

    def lost(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    blob = next(find_source(tmp_path / "p.zip").listing().blobs())
    monkeypatch.setattr(zipfile.ZipFile, "open", lost)
    assert out_of_reach(read_blob(blob)[0])
