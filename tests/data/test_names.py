"""Compact names are held to a list of the same texts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.data.listing import Files, Names, distinct

TEXTS = st.lists(st.text(st.characters(codec=None), max_size=8))


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


def test_bytes_that_are_no_utf8_come_back():
    texts = [b"caf\xe9 \xff".decode("utf-8", "surrogateescape"), "two\nlines", "", "\udcc3\udca9"]
    assert list(Names(texts)) == texts


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
