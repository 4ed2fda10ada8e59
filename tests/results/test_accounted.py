"""What shoal cluster says of files that it does not read: a line, and a table that a second clustering has as well."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from tests.results.conftest import BACKBONE

from shoal.cli.main import main
from shoal.data.sources.find import short_name
from shoal.results.tables import read_csv, write_skipped

ODD = ("HEIC", "heif", "jxl", "dng", "NEF", "CR2", "jp2", "psd", "svg", "pdf", "mp4", "dcm", "jfif")


@pytest.fixture
def mixed(photos):
    """Photos, and beside them what phones and cameras leave: here under their names alone."""
    for ending in ODD:
        (photos / f"IMG_0001.{ending}").write_bytes(b"\x81\x03" * 2000)
    (photos / "notes.txt").write_text("text")
    (photos / ".DS_Store").write_bytes(b"\0")
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir" / "x.png").write_bytes(b"\0")
    return photos


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_as_a_phone_leaves_it(mixed, tmp_path, weights, capsys, caplog):
    network = ["--backbone.name", BACKBONE, "--backbone.weights", str(weights)]
    assert main(["cluster", "photos", "-k", "4", "--out", "c", *network]) == 0
    said = capsys.readouterr().out
    assert len(table(tmp_path / "c/assignments.csv")) == len(list(mixed.glob("*.png")))
    skipped = {row["id"]: row["reason"] for row in table(tmp_path / "c/skipped.csv")}
    assert sorted(skipped) == sorted(f"IMG_0001.{ending}" for ending in ODD)
    assert skipped["IMG_0001.HEIC"] == "a damaged HEIC, or no image"
    assert skipped["IMG_0001.mp4"] == "video: take frames of it with --every 2s"
    line = next(line for line in said.splitlines() if line.startswith("not read"))
    for part in ("not read     16: ", "2 HEIC", "3 camera raw", "1 DICOM", "1 PDF", "1 video", "1 text", "1 @eaDir"):
        assert part in line, part
    assert line.endswith("; 13 of them in c/skipped.csv")

    assert main(["cluster", "c", "-k", "3", "--out", "again"]) == 0
    assert {row["id"]: row["reason"] for row in table(tmp_path / "again/skipped.csv")} == skipped
    assert main(["cluster", "photos", "-k", "4", "--out", "d", "--strict", *network]) == 2

    (tmp_path / "new").mkdir()
    next(mixed.glob("*.png")).rename(tmp_path / "new/a.png")
    (tmp_path / "new/notes.txt").write_text("text")
    assert main(["predict", "c", "new", "--out", "new.csv"]) == 0
    assert "1 other file was not read: 1 text" in caplog.text


def test_the_table_of_skipped_files_is_utf_8(tmp_path):
    write_skipped({"caf\udce9.png": "truncated", "é,\n.png": "empty file"}, tmp_path / "skipped.csv")
    rows = [("caf\\udce9.png", "truncated"), ("é,\n.png", "empty file")]
    assert [*read_csv(tmp_path / "skipped.csv", "id", "reason")] == rows
    (tmp_path / "skipped.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "skipped.csv").read_bytes())
    assert [*read_csv(tmp_path / "skipped.csv", "id", "reason")] == rows
    write_skipped({}, tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [*((f"photos [1]{end}", "photos [1]") for end in ("", "/", "/*.png", ".zip")), ("*.png", "images")],
)
def test_the_result_is_called_after_its_source(tmp_path, monkeypatch, source, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos [1]").mkdir()
    (tmp_path / "photos [1].zip").touch()
    assert short_name(source) == name


@pytest.mark.slow
def test_decoders_are_not_heard(photos, weights):
    """libtiff complains to descriptor 2, without the name of a file, of a compression that Pillow is built without."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(photos / "a.tif", np.zeros((40, 40, 3), np.uint8), photometric="rgb", compression="webp")
    alone = "from PIL import Image; Image.open('photos/a.tif').load()"
    if "WEBP" not in subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=False).stderr:
        pytest.skip("this Pillow has the compression")
    command = [sys.executable, "-m", "shoal", "cluster", "photos", "-k", "4", "--out", "c", "--backbone.name", BACKBONE]
    done = subprocess.run([*command, "--backbone.weights", str(weights)], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("device ")
