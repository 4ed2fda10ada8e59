"""Inputs of ``shoal cluster`` and ``shoal predict`` at their edges: arrays, folders named as such, long patterns."""

import csv

import numpy as np
import pytest
from PIL import Image
from tests.commands import complaint

from shoal.cli.main import main
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("no_umap")


def pictures(folder, n=6, side=24):
    """Files of noise, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(n)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_fractions_that_were_refused_are_read_with_the_range_as_is_advised(here, network, capsys):
    """In the same folder: the refusal leaves nothing that stands in the way."""
    values = np.random.default_rng(0).uniform(-1, 2, (3, 24, 24, 3)).astype(np.float32)
    np.save("arrays.npy", values)
    assert main(["cluster", "arrays.npy", "-k", "2", "--quiet", *network]) == 2
    assert "--data.range" in complaint(capsys)
    assert main(["cluster", "arrays.npy", "-k", "2", "--quiet", "--data.range", "-1", "2", *network]) == 0
    result = Result.load(here / "clusters/arrays")
    assert len(result.ids) == 3
    assert result.embedded.ranges == {"any": (-1, 2)}


@pytest.mark.parametrize("cut", [60, 500])
@pytest.mark.parametrize("flags", [["--data.range", "0", "9"], "network"], ids=["range", "network"])
def test_a_damaged_array_is_called_so_whatever_is_asked_of_it(here, network, capsys, cut, flags):
    np.save("arrays.npy", np.zeros((4, 24, 24, 3), np.uint8))
    data = (here / "arrays.npy").read_bytes()
    (here / "arrays.npy").write_bytes(data[:cut])
    assert main(["cluster", "arrays.npy", "-k", "2", *(network if flags == "network" else flags)]) == 2
    said = complaint(capsys)
    assert "arrays.npy" in said
    assert "it is damaged" in said
    assert "has features already" not in said


@pytest.mark.parametrize("name", ["f.npy", "f.NPY"])
def test_a_folder_that_is_named_as_an_array_is_read_as_images(here, network, name):
    pictures(here / name)
    assert main(["cluster", f"{name}/", "-k", "2", "--out", "found", "--quiet", *network]) == 0
    assert sorted(Result.load(here / "found").ids) == [f"{number}.png" for number in range(6)]


LONG = {
    "brackets": f"photos/[{'0123456789' * 30}].png",
    "braces": f"photos/{{0,1,2,3,4,5{',0' * 130}}}.png",
}


@pytest.mark.parametrize("kind", LONG)
def test_a_pattern_longer_than_a_name_may_be_is_read(here, network, kind, capsys):
    names, pattern = pictures(here / "photos"), LONG[kind]
    assert max(map(len, pattern.split("/"))) > 255
    assert main(["cluster", pattern, "-k", "2", "--quiet", *network]) == 0
    assert sorted(Result.load(here / "clusters/photos").ids) == names
    assert main(["predict", "clusters/photos", pattern, "--out", "new.csv"]) == 0
    with (here / "new.csv").open(newline="") as file:
        assert sorted(row["id"] for row in csv.DictReader(file)) == names
    assert main(["update", "clusters/photos"]) == 0
    assert main(["sort", "clusters/photos", "--copy", "sorted"]) == 0
    capsys.readouterr()
    assert main(["predict", "clusters/photos", pattern.replace("png", "gif"), "--out", "other.csv"]) == 2
    assert "no file matches photos/" in complaint(capsys)


@pytest.mark.parametrize("kind", LONG)
def test_a_long_pattern_that_matches_nothing_is_told_in_a_sentence(kind, here, network, capsys):
    (here / "photos").mkdir()
    assert main(["cluster", LONG[kind], "-k", "2", *network]) == 2
    assert "no file matches photos/" in complaint(capsys)
    assert [path.name for path in here.iterdir()] == ["photos"]
