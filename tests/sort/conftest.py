"""Files to sort."""

import pytest


@pytest.fixture
def photos(tmp_path):
    """Seven small files in two folders, two of the same name."""
    folder = tmp_path / "home" / "photos"
    names = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg", "b/1.JPG", "b/5.jpg", "6.jpg"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"picture " + name.encode())
    return folder, names
