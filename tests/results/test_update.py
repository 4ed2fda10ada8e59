"""``shoal update``: what joins the clusters, what leaves them, and what stays as it was."""

import csv
import errno
import os
import shutil
import zipfile
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.commands import complaint
from tests.pictures import shard
from tests.results.conftest import COLOURS, EACH, photograph
from tests.runs import tiny_recipe

from shoal import files as writing
from shoal.cli.main import main
from shoal.data import file_stats
from shoal.features import Encoder, matching
from shoal.folder import ResultFolder
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("no_umap", "photos")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(folder):
    return {row["id"]: row for row in rows(folder / "assignments.csv")}


def changes(folder):
    return [(row["change"], row["id"], row["was"]) for row in rows(folder / "changes.csv")]


@pytest.fixture
def embedded(monkeypatch):
    """Sizes of the batches that go through the network."""
    seen, compute = [], Encoder.embed
    monkeypatch.setattr(Encoder, "embed", lambda encoder, pixels: seen.append(len(pixels)) or compute(encoder, pixels))
    return seen


def change(photos):
    """Two photos come, one is replaced, one renamed, one deleted."""
    photograph(photos, "red", 90)
    photograph(photos, "grey", 91)
    shutil.copy(photograph(photos.parent / "other", "green", 92), photos / "blue-0.png")
    (photos / "blue-1.png").rename(photos / "sea.png")
    (photos / "green-2.png").unlink()


CHANGED = {
    ("new", "red-90.png", ""),
    ("new", "grey-91.png", ""),
    ("changed", "blue-0.png", ""),
    ("renamed", "sea.png", "blue-1.png"),
    ("vanished", "green-2.png", ""),
}


def test_only_what_has_changed_is_embedded_and_the_rest_stays(photos, clusters, embedded, capsys, monkeypatch):
    before = table(clusters)
    change(photos)
    monkeypatch.setattr("shoal.features.extract.choose_batch_size", lambda _encoder: 4)
    assert main(["update", "clusters/photos"]) == 0
    assert (
        "updated      2 new, 1 changed, 1 renamed, 1 vanished: clusters/photos/changes.csv\n" in capsys.readouterr().out
    )
    assert sum(embedded) == 3
    after = table(clusters)
    assert list(after) == sorted(path.name for path in photos.iterdir())
    for name in before.keys() & after.keys() - {"blue-0.png"}:
        assert after[name] == before[name], name
    assert {**after["sea.png"], "id": "blue-1.png"} == before["blue-1.png"]
    for name, like in (("red-90.png", "red-0.png"), ("grey-91.png", "grey-0.png"), ("blue-0.png", "green-0.png")):
        assert after[name]["cluster"] == before[like]["cluster"]
        assert after[name]["x"] != ""
    assert set(changes(clusters)) == CHANGED
    assert not [path.name for path in clusters.iterdir() if path.name.startswith(".")]
    capsys.readouterr()
    assert main(["update", "clusters/photos"]) == 0
    assert capsys.readouterr().out == "nothing has changed: 33 images in 4 clusters\n"
    for command in (["sort", str(clusters), "--move", "sorted", "--yes"], ["report", str(clusters)]):
        assert main(command) == 0
    assert not list(photos.iterdir())


@pytest.mark.slow
def test_the_result_is_one_like_any_other(tmp_path, photos, clusters):
    change(photos)
    assert main(["update", str(clusters)]) == 0
    page = (clusters / "report.html").read_text()
    assert "<title>photos" in page
    assert "sea.png" in page
    assert ".update" not in page
    assert main(["cluster", str(clusters), "-k", "3", "--out", "three"]) == 0
    assert main(["predict", str(clusters), "photos", "--out", "all.csv"]) == 0
    assert {row["id"]: row["cluster"] for row in rows(tmp_path / "all.csv")} == {
        name: row["cluster"] for name, row in table(clusters).items()
    }
    shutil.move(clusters, tmp_path / "moved")
    photograph(photos, "red", 95)
    assert main(["update", "moved"]) == 0
    assert [(row["update"], row["id"]) for row in rows(tmp_path / "moved/changes.csv")][-1] == ("2", "red-95.png")


@pytest.mark.slow
def test_it_is_exported_without_images(photos, clusters):
    change(photos)
    assert main(["update", str(clusters)]) == 0
    shutil.rmtree(photos)
    assert main(["export", str(clusters), "photos.onnx"]) == 0


def test_names_and_edits_survive(photos, clusters):
    for name in ("assignments.parquet", "assignments.csv"):
        found = pq.read_table(clusters / "assignments.parquet")
        names = pa.array([f"kind {cluster}" for cluster in found["cluster"].to_pylist()])
        if name.endswith("parquet"):
            pq.write_table(found.set_column(found.column_names.index("name"), "name", names), clusters / name)
    photograph(photos, "red", 90)
    assert main(["update", str(clusters)]) == 0
    assert all(row["name"] == f"kind {row['cluster']}" for row in table(clusters).values())


def test_two_photos_that_have_swapped_names_keep_their_clusters(photos, clusters, capsys, monkeypatch):
    before = table(clusters)
    for name, other in [("red-0.png", "aside"), ("blue-0.png", "red-0.png"), ("aside", "blue-0.png")]:
        (photos / name).rename(photos / other)
    assert main(["update", str(clusters)]) == 0
    assert "updated      2 renamed" in capsys.readouterr().out
    after = table(clusters)
    assert after["red-0.png"]["cluster"] == before["blue-0.png"]["cluster"] != before["red-0.png"]["cluster"]
    assert after["blue-0.png"]["cluster"] == before["red-0.png"]["cluster"]
    read = []
    monkeypatch.setattr(matching, "contents", lambda _, rows, *__: read.extend(rows.tolist()) or iter(()))
    assert main(["update", str(clusters)]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert read == []  # each is known by the size and times of its own file


def test_a_photo_that_another_one_has_overwritten_has_vanished(photos, clusters, capsys):
    (photos / "red-0.png").rename(photos / "blue-0.png")
    assert main(["update", str(clusters)]) == 0
    assert "updated      1 renamed, 1 vanished" in capsys.readouterr().out
    assert set(changes(clusters)) == {("renamed", "blue-0.png", "red-0.png"), ("vanished", "blue-0.png", "")}


def test_another_folder_joins_and_is_looked_at_again(tmp_path, photos, clusters, capsys):
    for colour in COLOURS:
        photograph(tmp_path / "december", colour, 70)
    photograph(tmp_path / "december/late", "red", 71)
    before = table(clusters)
    assert main(["update", str(clusters), "december"]) == 0
    after = table(clusters)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {f"december/{name}-70.png" for name in COLOURS} | {
        "december/late/red-71.png"
    }
    photograph(tmp_path / "december", "red", 72)
    photograph(photos, "red", 73)
    (tmp_path / "december/blue-70.png").unlink()
    assert main(["update", str(clusters)]) == 0
    for path in ("december", "photos", "december/late", "photos/red-73.png"):  # all known
        capsys.readouterr()
        assert main(["update", str(clusters), path]) == 0
        assert capsys.readouterr().out.startswith("nothing has changed: 38 images")
    assert main(["sort", str(clusters), "--copy", "sorted", "--yes"]) == 0
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == 38
    assert main(["sort", str(clusters), "--copy", "december/sorted"]) == 2
    assert "lies inside" in complaint(capsys)
    assert main(["cluster", str(clusters), "-k", "3", "--out", "three"]) == 0
    assert main(["sort", "three", "--copy", "sorted-3", "--yes"]) == 0


def test_a_folder_that_has_moved_is_found_by_what_is_in_it(tmp_path, photos, clusters, embedded, capsys):
    before = table(clusters)
    (tmp_path / "archive").mkdir()
    photos.rename(tmp_path / "archive/2024")
    photograph(tmp_path / "unlike", "red", 99)
    for args in ([], ["unlike"], ["nowhere"], ["-"]):
        assert main(["update", str(clusters), *args]) == 2
        complaint(capsys)
    assert table(clusters) == before
    assert main(["update", str(clusters), "archive"]) == 0
    assert list(table(clusters)) == [f"2024/{name}" for name in before]
    assert [row["cluster"] for row in table(clusters).values()] == [row["cluster"] for row in before.values()]
    assert not sum(embedded) or max(embedded) == 1  # to see what size of batch suits the network
    assert main(["sort", str(clusters), "--link", "sorted"]) == 0


@pytest.mark.slow
def test_archives_tables_parquet_and_lists(tmp_path, photos, network, monkeypatch):
    names = sorted(path.name for path in photos.iterdir())

    def packed(names):
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for name in names:
                archive.write(photos / name, f"p/{name}")

    def listed(names):
        (tmp_path / "photos.csv").write_text("".join(["path\n", *(f"photos/{name}\n" for name in names)]))

    def shards(names):
        blobs = [(photos / name).read_bytes() for name in names]
        shard(tmp_path / "photos.parquet", blobs, paths=names)

    for source, write in (("photos.zip", packed), ("photos.csv", listed), ("photos.parquet", shards)):
        write(names[:-2])
        assert main(["cluster", source, "-k", "4", "--out", f"of-{source}", *network]) == 0
        before = {name.rpartition("/")[2]: row["cluster"] for name, row in table(tmp_path / f"of-{source}").items()}
        write(names[2:])
        assert main(["update", f"of-{source}"]) == 0
        after = {name.rpartition("/")[2]: row["cluster"] for name, row in table(tmp_path / f"of-{source}").items()}
        assert list(after) == names[2:]
        assert {name: after[name] for name in names[2:-2]} == {name: before[name] for name in names[2:-2]}
    monkeypatch.setattr("shoal.data.sources.find._stdin_paths", lambda: [f"photos/{name}" for name in names[2:]])
    assert main(["cluster", "-", "-k", "4", *network]) == 0
    (photos / names[2]).unlink()
    assert main(["update", "clusters/stdin"]) == 0
    assert list(table(tmp_path / "clusters/stdin")) == [f"photos/{name}" for name in names[3:]]
    assert not (tmp_path / "clusters/stdin/skipped.csv").exists()
    photograph(tmp_path / "more", "red", 80)
    assert main(["update", "clusters/stdin", "more"]) == 0
    assert list(table(tmp_path / "clusters/stdin"))[-1] == "more/red-80.png"


@pytest.mark.slow
def test_a_run_takes_new_images_by_its_own_network(tmp_path):
    assert main(["train", str(tiny_recipe(tmp_path)), "--quiet", "--out", "own"]) == 0
    pictures = tmp_path / "pictures"
    paths = sorted(path for path in pictures.rglob("*.png"))
    before = table(tmp_path / "own")
    shutil.copy(paths[7], pictures / "class 0/a copy.png")
    shutil.copy(paths[9], paths[60])
    os.utime(paths[30])
    paths[40].unlink()
    gone, changed = (paths[i].relative_to(pictures).as_posix() for i in (40, 60))
    assert main(["update", "own"]) == 0
    after = table(tmp_path / "own")
    assert after.keys() == before.keys() - {gone} | {"class 0/a copy.png"}
    assert all(after[name] == before[name] for name in before.keys() - {gone, changed})
    twin = before[paths[7].relative_to(pictures).as_posix()]
    assert after["class 0/a copy.png"]["cluster"] == twin["cluster"]
    assert float(after["class 0/a copy.png"]["distance"]) == pytest.approx(float(twin["distance"]), abs=1e-4)
    for command in (["report", "own"], ["evaluate", "own"], ["sort", "own", "--copy", "sorted", "--yes"]):
        assert main(command) == 0
    assert main(["cluster", "own", "-k", "3", "--out", "three"]) == 0
    (tmp_path / "own").rename(tmp_path / "away")
    assert main(["sort", "three", "--copy", "sorted-3", "--yes"]) == 0
    assert main(["update", "away"]) == 0


@pytest.mark.slow
def test_far_images_suggest_another_number(tmp_path, photos, network, capsys):
    shutil.rmtree(photos)
    for colour in ("red", "green"):
        for seed in range(40):
            photograph(photos, colour, seed)
    assert main(["cluster", "photos", "-k", "2", *network]) == 0
    for seed in range(10):
        photograph(photos, "red", 100 + seed)
    capsys.readouterr()
    assert main(["update", "clusters/photos"]) == 0
    assert "far " not in capsys.readouterr().out
    for seed in range(12):
        photograph(photos, "blue", seed)
    assert main(["update", "clusters/photos"]) == 0
    said = capsys.readouterr().out
    assert (
        "12 of 12 new images are far from every cluster (hardly one would be usual): cluster again with -k 3?" in said
    )
    far = {row["id"]: row["far"] for row in rows(tmp_path / "clusters/photos/changes.csv")}
    assert {name for name, is_far in far.items() if is_far == "yes"} >= {f"blue-{seed}.png" for seed in range(12)}


def snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".update" not in str(path)
    }


def test_whatever_stops_it_the_old_result_is_whole(photos, clusters, monkeypatch):
    change(photos)
    old, steps = snapshot(clusters), 0

    class Killed(BaseException):
        pass

    for after in range(1, 40):
        count = []

        def killed(write, path, *content, count=count, after=after):
            count.append(path)
            if len(count) == after:
                raise Killed
            return write(path, *content)

        with monkeypatch.context() as patch:
            for user in ("features.store", "results.finish", "results.update", "tensors", "folder"):
                patch.setattr(f"shoal.{user}.atomic_write", partial(killed, writing.atomic_write))
            patch.setattr("shoal.report.page.atomic_file", partial(killed, writing.atomic_file))
            try:
                assert main(["update", str(clusters)]) == 0
                break
            except Killed:
                steps += 1
        assert snapshot(clusters) == old
        assert Result.load(clusters).ids
    assert steps >= 5
    assert set(changes(clusters)) == CHANGED


@pytest.mark.parametrize("after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_an_update_that_is_whole_is_put_in_place_later(tmp_path, photos, clusters, monkeypatch, after):
    shutil.copytree(clusters, tmp_path / "twin")
    change(photos)
    assert main(["update", "twin"]) == 0
    replace, count = type(clusters).replace, []

    def killed(path, target):
        count.append(path)
        if len(count) == after:
            raise SystemExit
        return replace(path, target)

    move = ResultFolder._move_update

    def with_kill(folder):
        with monkeypatch.context() as patch:
            patch.setattr(type(clusters), "replace", killed)
            move(folder)

    with monkeypatch.context() as patch:
        patch.setattr(ResultFolder, "_move_update", with_kill)
        with pytest.raises(SystemExit):
            main(["update", str(clusters)])
    assert (clusters / ".update").exists()
    assert main(["report", str(clusters)]) == 0
    assert not (clusters / ".update").exists()
    assert table(clusters) == table(tmp_path / "twin")
    assert (clusters / "features/features.f32").read_bytes() == (tmp_path / "twin/features/features.f32").read_bytes()


def test_one_update_at_a_time_and_a_full_disk(photos, clusters, monkeypatch, capsys):
    change(photos)
    old = snapshot(clusters)

    def another(*_args, **_settings):
        assert main(["update", str(clusters)]) == 2
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shoal.features.store.os.fsync", another)
        assert main(["update", str(clusters)]) == 2
    assert "another process is changing" in capsys.readouterr().err
    assert snapshot(clusters) == old
    assert main(["update", str(clusters)]) == 0


@pytest.mark.slow
def test_what_could_not_be_read_is_looked_at_again(tmp_path, photos, network, capsys):
    (photos / "late.png").write_bytes(b"half")
    assert main(["cluster", "photos", "-k", "4", *network]) == 0
    capsys.readouterr()
    assert main(["update", "clusters/photos"]) == 0
    assert "nothing has changed: 32 images" in capsys.readouterr().out
    photograph(photos, "red", 90).replace(photos / "late.png")
    (photos / "red-1.png").write_bytes(b"broken")
    assert main(["update", "clusters/photos"]) == 0
    assert set(changes(tmp_path / "clusters/photos")) == {("new", "late.png", ""), ("unreadable", "red-1.png", "")}
    assert [row["id"] for row in rows(tmp_path / "clusters/photos/skipped.csv")] == ["red-1.png"]
    photograph(photos, "red", 91).replace(photos / "red-1.png")
    assert main(["update", "clusters/photos", "--strict"]) == 0
    assert not (tmp_path / "clusters/photos/skipped.csv").exists()
    assert len(table(tmp_path / "clusters/photos")) == 4 * EACH + 1


def test_a_drive_that_goes_away_takes_no_image_out(tmp_path, photos, clusters, monkeypatch, capsys):
    before = table(clusters)
    (photos / "red-1.png").unlink()
    stat = file_stats.stat_files

    def unplugged(files, rows=None):
        found = stat(files, rows)
        found[5:] = -1  # from here on
        if photos.exists():
            photos.rename(tmp_path / "unplugged")
        return found

    monkeypatch.setattr("shoal.data.file_stats.stat_files", unplugged)
    assert main(["update", str(clusters)]) == 2
    assert "cannot be reached any more" in complaint(capsys)
    assert table(clusters) == before


def test_mistakes(tmp_path, photos, clusters, weights, capsys):
    assert main(["update", "photos"]) == 2
    assert "photos holds no finished clusters" in complaint(capsys)
    assert main(["cluster", "digits", "-k", "3", "--out", "digits-3", "--quiet"]) == 0
    assert main(["update", "digits-3"]) == 2
    assert "holds clusters of features, not of images: cluster all of them again" in complaint(capsys)
    (clusters / ".update").mkdir()
    (clusters / ".update/ready.json").write_text("text")
    assert main(["update", str(clusters)]) == 2
    assert "cannot be put in place" in complaint(capsys)
    shutil.rmtree(clusters / ".update")
    photograph(photos, "red", 90)
    weights.rename(tmp_path / "w")
    assert main(["update", str(clusters)]) == 2
    assert "which the images were embedded with, are gone" in complaint(capsys)
    (tmp_path / "w").rename(weights)
    for path in photos.iterdir():
        path.unlink()
    assert main(["update", str(clusters)]) == 2
    assert "there are no image files in" in complaint(capsys)


def test_what_is_not_read_is_listed_anew_though_no_image_has_changed(photos, clusters, capsys):
    skipped = clusters / "skipped.csv"
    (photos / "plan.pdf").write_bytes(b"%PDF-1.7")
    (photos / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["update", "clusters/photos"]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert {row["id"] for row in rows(skipped)} == {"plan.pdf", "cut.png"}
    for name in ("plan.pdf", "cut.png"):
        (photos / name).unlink()
    assert main(["update", "clusters/photos"]) == 0
    assert not skipped.exists()


def test_a_cluster_that_lost_its_images_is_not_counted(photos, clusters, capsys):
    lost = {row["id"] for row in table(clusters).values() if row["cluster"] == "0"}
    for name in lost:
        (photos / name).unlink()
    assert main(["update", "clusters/photos"]) == 0
    left = len(COLOURS) * EACH - len(lost)
    assert f"clusters     {len(COLOURS) - 1}, of {left}; {len(COLOURS)} were asked for" in capsys.readouterr().out


@pytest.mark.slow
def test_files_that_are_listed_already_do_not_join(tmp_path, photos, network, monkeypatch):
    names = sorted(path.name for path in photos.iterdir())
    (tmp_path / "photos.csv").write_text("".join(["path\n", *(f"photos/{name}\n" for name in names[:-1])]))
    photograph(tmp_path / "linked", "red", 99)
    (tmp_path / "linked/again.png").symlink_to(photos / names[3])
    monkeypatch.setattr("shoal.data.sources.find._stdin_paths", lambda: [f"photos/{name}" for name in names[:-1]])
    for source, joins, new in (
        ("photos.csv", "photos", f"photos-2/{names[-1]}"),
        ("-", "linked", "linked/red-99.png"),
    ):
        assert main(["cluster", source, "-k", "4", "--out", f"with-{joins}", *network]) == 0
        before = table(tmp_path / f"with-{joins}")
        assert main(["update", f"with-{joins}", joins]) == 0
        after = table(tmp_path / f"with-{joins}")
        assert list(after) == [*before, new]  # the one that was not listed
        assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_a_joined_folder_that_is_away_is_no_folder_of_vanished_images(tmp_path, photos, clusters, capsys):
    for colour in COLOURS:
        photograph(tmp_path / "december", colour, 70)
    assert main(["update", str(clusters), "december"]) == 0
    before = table(clusters)
    (tmp_path / "december").rename(tmp_path / "away")
    photograph(tmp_path / "unlike", "red", 99)
    for args in ([], ["unlike"]):
        assert main(["update", str(clusters), *args]) == 2
        assert "the images of december/, which have joined, cannot be reached: there is no file" in complaint(capsys)
    (tmp_path / "december").mkdir()  # as of a drive that is not mounted
    assert main(["update", str(clusters)]) == 2
    assert "cannot be reached: there are no image files in" in complaint(capsys)
    assert table(clusters) == before
    assert main(["update", str(clusters), "away"]) == 0
    assert table(clusters) == before
    photograph(tmp_path / "away", "red", 71)
    assert main(["update", str(clusters)]) == 0
    assert table(clusters).keys() - before.keys() == {"december/red-71.png"}
    (tmp_path / "disk").mkdir()
    for folder in (photos, tmp_path / "away"):
        folder.rename(tmp_path / "disk" / folder.name)
    assert main(["update", str(clusters), "disk"]) == 0
    assert len(table(clusters)) == len(before) + 1


def test_a_joined_folder_that_was_merged_into_another_is_found_there(tmp_path, photos, clusters, capsys):
    joined = [photograph(tmp_path / "december", colour, 70) for colour in COLOURS]
    assert main(["update", str(clusters), "december"]) == 0
    before = table(clusters)
    (tmp_path / "december").rename(tmp_path / "away")
    shutil.copy(tmp_path / "away" / joined[0].name, photos / "copied.png")  # one is no merger
    assert main(["update", str(clusters), str(photos)]) == 2
    assert "cannot be reached" in complaint(capsys)
    assert table(clusters) == before
    (photos / "copied.png").unlink()
    for file in joined:
        (tmp_path / "away" / file.name).rename(photos / file.name)
    assert main(["update", str(clusters)]) == 2
    assert "cannot be reached" in complaint(capsys)
    assert main(["update", str(clusters), str(photos)]) == 0
    after = table(clusters)
    assert {name: row["cluster"] for name, row in after.items()} == {
        name.removeprefix("december/"): row["cluster"] for name, row in before.items()
    }
    assert main(["update", str(clusters)]) == 0


def test_what_joins_by_a_pattern_is_named_after_its_folder(tmp_path, clusters):
    photograph(tmp_path / "december", "red", 70)
    assert main(["update", str(clusters), "december/*.png"]) == 0
    assert "december/red-70.png" in table(clusters)
    with zipfile.ZipFile(tmp_path / "january.zip", "w") as archive:
        archive.write(photograph(tmp_path / "other", "red", 71), "red-71.png")
    assert main(["update", str(clusters), "january.zip"]) == 0
    assert "january/january.zip/red-71.png" in table(clusters)


@pytest.mark.slow
def test_a_listed_file_keeps_its_name_once_it_can_be_read(tmp_path, photos, network, monkeypatch):
    names = [f"photos/{path.name}" for path in sorted(photos.iterdir())]
    late = (tmp_path / names[3]).read_bytes()
    (tmp_path / names[3]).write_bytes(b"half")
    monkeypatch.setattr("shoal.data.sources.find._stdin_paths", lambda: names)
    assert main(["cluster", "-", "-k", "4", *network]) == 0
    (tmp_path / names[5]).unlink()
    assert main(["cluster", "clusters/stdin", "-k", "3", "--out", "three"]) == 0
    (tmp_path / names[3]).write_bytes(late)
    for folder in ("clusters/stdin", "three"):
        assert main(["update", folder]) == 0
        assert list(table(tmp_path / folder)) == [*names[:5], *names[6:]]


HEADER = "update,change,id,was,cluster,far"


@pytest.mark.parametrize(
    "text",
    ["id,change\n", f"{HEADER},mine\n", f"{HEADER}\n1,new,a.png,,2\n", f"{HEADER}\n1,new,a.png,,2,no,mine\n", ""],
)
def test_a_table_of_changes_that_is_no_longer_ours_is_not_replaced(photos, clusters, embedded, capsys, text):
    (clusters / "changes.csv").write_text(text)
    photograph(photos, "red", 90)
    before = snapshot(clusters)
    assert main(["update", str(clusters)]) == 2
    assert "rename it to keep it, or give it these columns again" in complaint(capsys)
    assert snapshot(clusters) == before
    assert not embedded
    (clusters / "changes.csv").write_text("far,change,id,was,cluster,update\nno,new,a.png,,2,1\n")  # sorted otherwise
    assert main(["update", str(clusters)]) == 0
    assert changes(clusters) == [("new", "a.png", ""), ("new", "red-90.png", "")]


@pytest.mark.parametrize("source", ["photos.csv", "-"])
def test_files_of_a_table_or_a_list_that_are_all_away(tmp_path, photos, network, monkeypatch, capsys, source):
    names = sorted(f"photos/{path.name}" for path in photos.iterdir())
    (tmp_path / "photos.csv").write_text("\n".join(["path", *names]))
    monkeypatch.setattr("shoal.data.sources.find._stdin_paths", lambda: names)
    assert main(["cluster", source, "-k", "4", "--out", "c", *network]) == 0
    photograph(tmp_path / "more", "red", 70)
    assert main(["update", "c", "more"]) == 0
    before = table(tmp_path / "c")
    photos.rename(tmp_path / "away")
    assert main(["update", "c"]) == 2
    assert "the images to which others have joined cannot be reached: none is there." in complaint(capsys)
    (tmp_path / "away").rename(photos)
    (tmp_path / names[0]).unlink()
    assert main(["update", "c"]) == 0
    assert table(tmp_path / "c").keys() == before.keys() - {names[0]}


def test_changes_are_those_of_the_images_one_by_one(photos, clusters):
    """Renamed images in the order that they had, then what vanished, then what is no image any more."""
    before = {name: row["cluster"] for name, row in table(clusters).items()}
    kept = {name: (photos / name).read_bytes() for name in before}
    for old, new in (("blue-1.png", "z.png"), ("red-2.png", "a.png"), ("grey-0.png", "m.png")):
        (photos / old).rename(photos / new)
    for name in ("blue-0.png", "red-7.png"):
        (photos / name).write_bytes(b"no image any more")
    (photos / "green-3.png").unlink()
    photograph(photos, "red", 90)
    assert main(["update", str(clusters)]) == 0
    now = {path.name: path.read_bytes() for path in photos.iterdir()}
    expected = [("new", "red-90.png", "", table(clusters)["red-90.png"]["cluster"])]
    expected += [
        ("renamed", new, old, before[old])
        for old in sorted(before)
        for new in sorted(now)
        if old not in now and now[new] == kept[old]
    ]
    expected += [
        ("vanished", old, "", before[old]) for old in sorted(before) if kept[old] not in now.values() and old not in now
    ]
    expected += [("unreadable", old, "", before[old]) for old in sorted(before) if old in now and now[old] != kept[old]]
    found = [(row["change"], row["id"], row["was"], row["cluster"]) for row in rows(clusters / "changes.csv")]
    assert found == expected
    assert len(found) == 7
