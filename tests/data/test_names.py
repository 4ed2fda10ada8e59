"""Compact names are held to a list of the same texts."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import mapped
from shoal.data.listing import Files, Names, distinct, write_names

TEXTS = st.lists(st.text(max_size=8) | st.binary(max_size=8).map(lambda name: name.decode("utf-8", "surrogateescape")))


@given(TEXTS, st.slices(12))
def test_names_are_a_list_that_cannot_be_changed(texts, part):
    names = Names(texts)
    assert list(names) == texts
    assert [names[i] for i in range(-len(texts), len(texts))] == texts + texts
    assert names == texts
    assert texts == names
    assert names != [*texts, "more"]
    assert list(names[part]) == texts[part]
    assert list(names[part][1:]) == texts[part][1:]
    assert all(text in names for text in texts)
    with pytest.raises(IndexError):
        names[len(texts)]
    with pytest.raises(TypeError):
        names[0] = "changed"


@given(TEXTS, st.data())
def test_names_share_buffers(texts, data):
    text, ends = bytearray(), bytearray()
    write_names(texts, text.extend, ends.extend)
    names = Names.from_buffers(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))
    assert names == texts
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1))) if texts else []
    some = names.take(np.array(rows, np.int64))
    assert some == [texts[row] for row in rows]
    assert list(some[1::2]) == [texts[row] for row in rows][1::2]


@pytest.mark.parametrize("ends", [[3, 2], [2, 7], [-1, 2], [2**40, 2**41]])
def test_ends_outside_of_the_text_are_refused(ends):
    with pytest.raises(ValueError, match="end before they begin"):
        Names.from_buffers(np.frombuffer(b"abcdef", np.uint8), np.array(ends))


@pytest.mark.parametrize("room", [2**62, 40, 0])
def test_many_names_lie_in_a_file_or_without_room_for_it_in_memory(room, monkeypatch):
    monkeypatch.setattr(mapped, "SMALL", 16)
    texts = [f"folder/{number}.jpg" for number in range(9000)]
    if room < 2**62:
        monkeypatch.setattr(mapped.tempfile, "TemporaryFile", lambda **_: FullDisk(room))
    names = Names(texts)
    assert names == texts
    assert names[5000:5003] == texts[5000:5003]


class FullDisk(BytesIO):
    """A file on a disk with this many bytes left."""

    def __init__(self, room):
        super().__init__()
        if not room:
            raise OSError(28, "No space left on device")
        self.room = room

    def write(self, data):
        if not self.room:
            raise OSError(28, "No space left on device")
        written = super().write(bytes(data[: self.room]))
        self.room -= written
        return written


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "a#2#2"])))
def test_equal_names_are_told_apart(texts):
    found = list(distinct(Names(texts)))
    assert len(set(found)) == len(texts)
    assert all(one == two or one.startswith(f"{two}#") for one, two in zip(found, texts, strict=True))
    for text in set(texts):
        assert text in found, "the first of a name keeps it, or another that is called so"


def test_the_second_of_a_name_says_so():
    assert distinct(Names(["a", "b", "a", "a"])) == ["a", "b", "a#2", "a#3"]
    assert distinct(Names(["a", "a", "a#2"])) == ["a", "a#3", "a#2"]


def test_files_are_made_when_asked_for():
    files = Files(Names(["a/b.png", "c.png"]), "/root/".__add__)
    assert list(files) == [Path("/root/a/b.png"), Path("/root/c.png")] == [files[0], files[-1]]
    assert list(files.texts()) == list(map(str, files))
    assert list(files[1:]) == [Path("/root/c.png")]
