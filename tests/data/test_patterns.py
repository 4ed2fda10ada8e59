"""Patterns are held to the shell's and to Python's glob; a list on the standard input."""

import io
import subprocess

import pytest

from shoal.data import find_source, resolve_spec, to_images
from shoal.data.sources import find as doors
from shoal.errors import UserError

NAMES = ["a.jpg", "b.png", "sub/a.jpg", "sub/deep/c.jpg", "sub/[x].jpg", "sub2/a1.jpg", "sub2/a22.jpg", "notes.txt"]


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch, paint):
    for name in NAMES:
        path = tmp_path / "photos" / name
        paint(path) if path.suffix != ".txt" else path.write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "pattern", ["*.jpg", "**/*.jpg", "**/a*.jpg", "sub*/*", "s?b/*", "sub2/a[0-9].jpg", "sub/[!a]*.jpg", "**/deep/*"]
)
def test_wildcards_are_pythons(photos, pattern):
    listing = find_source(f"photos/{pattern}").listing()
    found = [listing.path(row) for row in range(len(listing.ids))]
    assert found == sorted(path for path in photos.glob(pattern) if path.suffix == ".jpg")
    begin = photos / "sub2" if pattern.startswith("sub2/") else photos / "sub" if pattern.startswith("sub/") else photos
    assert listing.ids == [path.relative_to(begin).as_posix() for path in found]


@pytest.mark.parametrize("braces", ["{a,b}.*", "sub{,2}/a{1,22,}.jpg", "sub2/a{1,{2,3}2}.jpg", "{sub,sub2}/a*.jpg"])
def test_braces_are_the_shells(photos, braces):
    shell = subprocess.run(["bash", "-c", f"ls -d {braces}"], cwd=photos, capture_output=True, text=True)
    expected = shell.stdout.split()
    if "*" not in braces and shell.returncode:
        with pytest.raises(UserError, match=r"there is no file photos/sub.*correct the braces"):
            find_source(f"photos/{braces}")
        return
    listing = find_source(f"photos/{braces}").listing()
    assert sorted(str(listing.path(i).relative_to(photos)) for i in range(len(listing.ids))) == expected


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("[z-a].jpg", None),
        ("[a-\\d].jpg", None),
        ("sub2/[!z-a]1.jpg", ["a1.jpg"]),
        ("[a&&b||c--d].*", ["a.jpg", "b.png"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_brackets_are_no_regular_expressions(pattern, names):
    if names is None:
        with pytest.raises(UserError, match="no file matches"):
            find_source(f"photos/{pattern}")
    else:
        assert find_source(f"photos/{pattern}").listing().ids == names


def test_ranges_keep_their_zeros(photos, paint):
    for number in (8, 9, 10):
        paint(photos / "n" / f"{number:03}.png")
    assert find_source("photos/n/{008..010}.png").listing().ids == ["008.png", "009.png", "010.png"]
    with pytest.raises(UserError, match=r"no file photos/n/011\.png, to which photos/n/\{008\.\.012\}\.png expands"):
        find_source("photos/n/{008..012}.png")
    with pytest.raises(UserError, match="more than 1000000 paths"):
        find_source("photos/{0..999999999}.png")


def test_subfolders_of_a_pattern_are_classes():
    images = to_images("photos/sub*/a*.jpg")
    assert images.classes == ("sub", "sub2")


def test_a_file_that_is_called_like_a_pattern():
    assert list(to_images("photos/sub/[x].jpg").ids) == ["[x].jpg"]
    with pytest.raises(UserError, match=r"no file matches photos/\*\.gif"):
        to_images("photos/*.gif")
    with pytest.raises(UserError, match="no file matches nowhere"):
        to_images("nowhere/*.gif")


def test_what_leads_there_from_any_folder(tmp_path):
    assert resolve_spec("photos") == str(tmp_path / "photos")
    assert resolve_spec("photos/**/*.jpg") == str(tmp_path / "photos/**/*.jpg")
    for name in ("digits", "hf://a/b", "-", ""):
        assert resolve_spec(name) == name


@pytest.fixture
def stdin(monkeypatch):
    def give(data):
        doors._stdin_paths.cache_clear()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    yield give
    doors._stdin_paths.cache_clear()


@pytest.mark.parametrize("data", [b"photos/b.png\nphotos/a.jpg\n", b"\xef\xbb\xbfphotos/b.png\r\n\r\nphotos/a.jpg"])
def test_a_list_on_the_standard_input_is_read_once(stdin, data):
    stdin(data)
    for _ in range(2):
        assert to_images("-").ids == ["photos/b.png", "photos/a.jpg"]


def test_zero_bytes_may_end_the_paths(stdin, paint, photos, monkeypatch):
    paint(photos / "two\nlines.png")
    paint(photos / "caf\udce9.png")
    stdin(b"photos/two\nlines.png\0photos/caf\xe9.png\0")
    assert to_images("-").ids == ["photos/two\nlines.png", "photos/caf\udce9.png"]
    stdin(b"\n")
    with pytest.raises(UserError, match="standard input has no paths"):
        to_images("-")
    stdin(b"")
    monkeypatch.setattr("sys.stdin", None)  # it was closed
    with pytest.raises(UserError, match="standard input has no paths"):
        to_images("-")
    stdin(b"photos/gone.png")
    with pytest.raises(UserError, match=r"no file photos/gone\.png"):
        to_images("-")
