"""A sweep over videos counts the frames that its runs will take."""

from dataclasses import replace

import pytest
from PIL import Image
from tests.runs import tiny_config
from tests.videos import encode

from shoal.cli.main import main
from shoal.data import DataConfig
from shoal.errors import UserError
from shoal.sweeps.grid import Point
from shoal.sweeps.ready import _count, check_ready


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Two videos of 2 seconds."""
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    for name in "ab":
        encode(tmp_path / "films" / f"{name}.mkv", 20)
    return tmp_path / "films"


def runs(path, every, n_clusters=4):
    config = replace(tiny_config(data=DataConfig(path=str(path), every=every)), n_clusters=n_clusters)
    return [Point("first", "recipe", {}, 0, config)]


@pytest.mark.parametrize(("every", "n"), [("1s", 4), ("500ms", 8), ("200ms", 20)])
def test_frames_of_videos_are_counted(films, every, n):
    assert _count(DataConfig(path=str(films), every=every)) == (n, n)
    check_ready(runs(films, every, n))
    with pytest.raises(UserError, match=rf"the run first cannot start.*{n + 1} clusters need .* there are {n}"):
        check_ready(runs(films, every, n + 1))


def test_frames_that_are_asked_of_a_folder_without_videos_stop_the_sweep(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    with pytest.raises(UserError, match=r"the run first cannot start, so nothing was trained: .*every"):
        check_ready(runs(tmp_path / "photos", "1s"))
    words = [f"data.path={tmp_path / 'photos'}", "data.every=1s", "n_clusters=2"]
    assert main(["sweep", "byol-digits", "--out", str(tmp_path / "out"), "--grid", *words]) == 2
    assert "cannot start" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
