"""Folders that change after they were clustered, or while they are."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from tests.commands import complaint
from tests.results.conftest import EACH, photograph

from shoal.cli.main import main
from shoal.features import Encoder, extract, filling, open_embedded

pytestmark = pytest.mark.usefixtures("no_umap")


@pytest.fixture
def with_copy(tmp_path, photos, network):
    """Clusters of the photos and of a copy of one."""
    shutil.copy(photos / "red-0.png", photos / "red-copy.png")
    assert main(["cluster", "photos", "-k", "4", *network, "--quiet"]) == 0
    return tmp_path / "clusters/photos"


def table(folder):
    with (folder / "assignments.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def files(folder):
    return sorted(path.name for path in folder.rglob("*.png"))


def test_one_photo_less_costs_nothing_else(tmp_path, photos, with_copy, capsys):
    clusters = with_copy
    (photos / "red-copy.png").unlink()
    (photos / "blue-1.png").rename(photos / "sea.png")
    assert main(["sort", str(clusters), "--copy", "sorted", "--yes"]) == 0
    said = capsys.readouterr().err
    assert "1 image is gone since the images were clustered: red-copy.png.\n" in said
    assert "1 image was renamed since: blue-1.png is now sea.png.\n" in said
    assert "left out; 'shoal update clusters/photos' takes" in said.replace(str(tmp_path) + "/", "")
    assert files(tmp_path / "sorted") == files(photos)
    assert main(["cluster", str(clusters), "-k", "3", "--out", "three"]) == 0
    assert len(table(tmp_path / "three")) == 4 * EACH
    assert "red-copy.png" not in (tmp_path / "three/duplicates.csv").read_text()
    assert main(["report", str(clusters)]) == 0
    assert "1 image is gone" in capsys.readouterr().err


def test_other_photos_under_the_same_names_stay_where_they_are(tmp_path, photos, clusters, capsys):
    before = {name: (photos / name).stat() for name in ("blue-0.png", "blue-1.png", "grey-2.png")}
    shutil.copy(photos / "red-5.png", photos / "blue-0.png")
    shutil.copy2(photos / "red-6.png", photos / "blue-1.png")  # with its time
    data = bytearray((photos / "grey-2.png").read_bytes())
    data[-20] ^= 1
    (photos / "grey-2.png").write_bytes(data)  # of the size it had, and then of its time
    os.utime(photos / "grey-2.png", ns=(0, before["grey-2.png"].st_mtime_ns))
    assert main(["sort", str(clusters), "--move", "sorted", "--yes"]) == 0
    assert "3 images have changed or been replaced by another" in capsys.readouterr().err
    assert files(photos) == ["blue-0.png", "blue-1.png", "grey-2.png"]
    assert len(files(tmp_path / "sorted")) == 4 * EACH - 3
    assert main(["sort", "--undo", "sorted/sorted.jsonl"]) == 0
    for path in photos.iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    assert main(["sort", str(clusters), "--copy", "sorted"]) == 2
    assert "none of the 32 images that were clustered is in" in complaint(capsys)


def test_two_photos_that_exchanged_their_names(tmp_path, photos, clusters):
    known = table(clusters)
    (photos / "blue-0.png").rename(photos / "x")
    (photos / "red-1.png").rename(photos / "blue-0.png")
    (photos / "x").rename(photos / "red-1.png")
    assert main(["sort", str(clusters), "--copy", "sorted", "--yes"]) == 0
    place = next((tmp_path / "sorted").rglob("blue-0.png")).parent.name
    assert place == f"cluster-0{known['red-1.png']['cluster']}"


def test_the_second_clustering_stands_by_itself(tmp_path, clusters):
    assert main(["cluster", str(clusters), "-k", "3", "--out", "second"]) == 0
    first, second = clusters / "features/features.f32", tmp_path / "second/features/features.f32"
    assert first.samefile(second)  # a hard link
    shutil.move(clusters, tmp_path / "elsewhere")
    assert main(["sort", "second", "--copy", "sorted", "--yes"]) == 0
    assert main(["report", "second"]) == 0
    assert main(["cluster", "second", "-k", "2", "--out", "third"]) == 0
    shutil.rmtree(tmp_path / "elsewhere")
    (tmp_path / "second/features/features.f32").unlink()
    assert main(["sort", "third", "--link", "links", "--yes"]) == 0
    assert len(files(tmp_path / "links")) == 32


def test_features_are_copied_where_there_are_no_hard_links(tmp_path, clusters, monkeypatch):
    def refused(*_args, **_settings):
        raise PermissionError

    monkeypatch.setattr("shoal.features.copying.os.link", refused)
    assert main(["cluster", str(clusters), "-k", "3", "--out", "second"]) == 0
    assert not (clusters / "features/features.f32").samefile(tmp_path / "second/features/features.f32")


def test_without_the_images_all_are_clustered_again(tmp_path, photos, clusters):
    photos.rename(tmp_path / "unplugged")
    assert main(["cluster", str(clusters), "-k", "3", "--out", "three"]) == 0
    assert len(table(tmp_path / "three")) == 32


def test_what_another_command_has_left_is_not_overwritten(photos, network, clusters, capsys):
    shutil.copytree(photos, photos.parent / "others")
    (photos.parent / "others/blue-0.png").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shoal.results.cluster_images.build_clusterer", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["cluster", "others", "-k", "4", "--out", "x", *network])
        with pytest.raises(ZeroDivisionError):
            main(["cluster", str(clusters), "-k", "3", "--out", "y"])
    assert main(["cluster", str(clusters), "-k", "3", "--out", "x"]) == 2
    assert "holds features of other images" in complaint(capsys)
    assert main(["cluster", str(clusters), "-k", "3", "--out", "y"]) == 0


def stop_after(n, monkeypatch):
    """Embed a few images and be stopped."""
    monkeypatch.setattr(extract, "choose_batch_size", lambda _encoder: 4)
    monkeypatch.setattr(filling, "_COMPUTING", 1)
    monkeypatch.setattr(filling, "_COMMIT_SECONDS", 0)
    compute, seen = Encoder.embed, []

    def counted(encoder, pixels):
        seen.append(len(pixels))
        if sum(seen) > n:
            raise KeyboardInterrupt
        return compute(encoder, pixels)

    monkeypatch.setattr(Encoder, "embed", counted)


def test_a_folder_that_grew_shrank_and_was_touched_while_it_was_embedded(tmp_path, photos, network, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(20, patch)
        with pytest.raises(KeyboardInterrupt):
            main(["cluster", "photos", "-k", "4", *network])
    photograph(photos, "red", 90).rename(photos / "a-new.png")
    (photos / "blue-0.png").unlink()
    (photos / "blue-1.png").rename(photos / "zz.png")
    for path in photos.iterdir():
        os.utime(path)
    shutil.copy(photos / "red-1.png", photos / "blue-2.png")
    seen = []
    compute = Encoder.embed
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "embed", lambda encoder, pixels: seen.append(len(pixels)) or compute(encoder, pixels))
        patch.setattr(extract, "choose_batch_size", lambda _encoder: 4)
        patch.chdir(tmp_path)
        assert main(["cluster", "photos", "-k", "4", *network]) == 0
    folder = tmp_path / "clusters/photos"
    assert list(table(folder)) == files(photos)
    kept = 20 - 2  # without the one that is gone, and the one that is another
    assert sum(seen) == len(files(photos)) - kept
    assert {path.name for path in folder.iterdir() if "features" in path.name} == {"features"}
    assert main(["cluster", "photos", "-k", "4", "--out", "whole", *network]) == 0
    one, two = (open_embedded(tmp_path / name / "features") for name in ("clusters/photos", "whole"))
    np.testing.assert_allclose(one.features, two.features, rtol=1e-4, atol=1e-5)
    assert np.array_equal(one.fingerprints, two.fingerprints)
    assert np.array_equal(one.stats, two.stats)


def test_a_drive_that_goes_away_is_an_error_that_resumes(tmp_path, photos, network, monkeypatch, capsys):
    drive = tmp_path / "drive"
    drive.mkdir()
    photos.rename(drive / "p")
    read, seen = filling.decode_blob, []

    def unplugged(*given, **how):
        seen.append(given)
        if len(seen) == 21:
            drive.rename(tmp_path / "unplugged")
        return read(*given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(filling, "decode_blob", unplugged)
        assert main(["cluster", "drive/p", "-k", "4", "--out", "c", *network]) == 2
    assert "bring their folder or drive back, then run the same command again to resume" in complaint(capsys)
    (tmp_path / "unplugged").rename(drive)
    assert main(["cluster", "drive/p", "-k", "4", "--out", "c", *network]) == 0
    assert len(table(tmp_path / "c")) == 4 * EACH
    assert not (tmp_path / "c/skipped.csv").exists()


def test_one_image_can_be_predicted_and_is_no_data_set_to_cluster(tmp_path, photos, clusters, network, capsys):
    assert main(["predict", str(clusters), "photos/blue-3.png", "--out", "one.csv"]) == 0
    assert "1 image in 4 clusters: one.csv" in capsys.readouterr().out
    with (tmp_path / "one.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["cluster"]) for row in rows] == [("blue-3.png", table(clusters)["blue-3.png"]["cluster"])]
    assert main(["cluster", "photos/blue-3.png", "-k", "2", "--out", "one", *network]) == 2
    assert "1 image is fewer than the 2 clusters asked for" in complaint(capsys)
    with Image.open(photos / "red-0.png") as image:
        image.save(tmp_path / "[1].bmp")
    assert main(["predict", str(clusters), "[1].bmp", "--out", "two.csv"]) == 0


def test_results_of_older_versions_are_told_by_their_contents(photos, clusters, capsys):
    (clusters / "features/looks.i64").unlink()
    assert main(["sort", str(clusters), "--copy", "sorted"]) == 0
    assert capsys.readouterr().err == ""
    os.utime(photos / "blue-0.png")
    shutil.copy(photos / "red-5.png", photos / "blue-1.png")
    assert main(["sort", str(clusters), "--copy", "sorted"]) == 0
    assert "replaced by another since the images were clustered: blue-1.png." in capsys.readouterr().err
    assert main(["update", str(clusters)]) == 0
    assert (clusters / "features/looks.i64").exists()
