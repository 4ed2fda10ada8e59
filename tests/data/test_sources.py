"""The one door for images, the sentence for each path that leads nowhere, and where pixels are put."""

import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests.pictures import png

from shoal.data import DataConfig, load_images, place_on, to_images
from shoal.errors import UserError

# --- digits ---


def test_digits_are_scikit_learns():
    images, bunch = load_images(DataConfig()), load_digits()
    assert images.pixels.shape == (1797, 3, 8, 8)
    assert images.pixels.is_contiguous()
    assert np.abs(images.pixels[:, 1].numpy() - bunch.images * 255 / 16).max() <= 0.5
    assert images.targets.tolist() == bunch.target.tolist()
    assert images.classes == tuple("0123456789")
    assert len(set(images.ids)) == 1797
    assert images.clustered.all()


def test_digits_win_over_a_folder_of_that_name(tmp_path, monkeypatch, paint):
    paint(tmp_path / "digits" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert len(load_images(DataConfig(path="digits"))) == 1797
    assert len(load_images(DataConfig(path="./digits"))) == 1


# --- paths that lead nowhere ---


def test_a_missing_path_has_near_names(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=r"no file or folder .*did you mean .*photos\?"):
        to_images(tmp_path / "photo")
    with pytest.raises(UserError, match=r"no file or folder .*nowhere/else: check the path\.$"):
        to_images(tmp_path / "nowhere" / "else")
    with pytest.raises(UserError, match="path of the images is empty"):
        to_images("")


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"no image files in .*, nor Parquet files or archives of them: only 1 text\.$"):
        to_images(tmp_path)


def test_an_unlistable_folder_is_the_users_to_mend(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse)
        with pytest.raises(UserError, match=r"cannot list the folder .*Permission denied"):
            to_images(tmp_path)


def test_an_unlistable_folder_among_others_is_left_out(tmp_path, paint, monkeypatch, caplog):
    paint(tmp_path / "a.png")
    paint(tmp_path / "lost+found" / "b.png")
    scandir = os.scandir

    def refuse(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", refuse)
        assert to_images(tmp_path).ids == ["a.png"]
    sentence = f"cannot list the folder {tmp_path}/lost+found: Permission denied. Its contents are skipped."
    assert caplog.messages == [sentence]


def test_an_unknown_file_type(tmp_path):
    (tmp_path / "a.doc").write_bytes(png("red"))
    with pytest.raises(UserError, match="give an image, a folder"):
        to_images(tmp_path / "a.doc")


def test_one_image(tmp_path):
    (tmp_path / "a.PNG").write_bytes(png("red"))
    images = to_images(tmp_path / "a.PNG")
    assert (list(images.ids), tuple(images.pixels.shape), images.classes) == (["a.PNG"], (1, 3, 6, 8), ())
    (tmp_path / "a.PNG").write_bytes(b"text")
    with pytest.raises(UserError, match=r"the image a\.PNG could not be read: not an image"):
        to_images(tmp_path / "a.PNG")


# --- devices ---


def test_pixels_stay_where_they_do_not_fit(monkeypatch):
    images = to_images(np.zeros((2, 4, 4, 3), np.uint8))
    assert place_on(images, torch.device("cpu")) is images
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (2 * images.pixels.nbytes, 10**12))
    assert place_on(images, torch.device("cuda")) is images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pixels_move_where_they_fit(tmp_path, paint):
    paint(tmp_path / "a.png")
    images = to_images(tmp_path)
    moved = place_on(images, torch.device("cuda"))
    assert moved.pixels.is_cuda
    assert torch.equal(moved.pixels.cpu(), images.pixels)
    assert moved.ids == images.ids
