"""``shoal cluster --method density`` as its users meet it: noise and layers in every file and every later command."""

import contextlib
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from tests.clustering.test_density import nested
from tests.results.conftest import COLOURS, flags_of

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.results.layers import layer_command
from shoal.results.result import Result
from shoal.review.desk import Desk
from shoal.review.session import Session

pytestmark = pytest.mark.usefixtures("no_umap")

SHADES = 2
OF_EACH = 10
DENSITY = ["--method", "density", "--min-cluster-size", "6"]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def clusters_in(folder):
    return {row["id"]: int(row["cluster"]) for row in table(folder / "assignments.csv")}


def shaded(folder, colour, shade, seed):
    """A noisy square, a little brighter for another shade."""
    noise = np.random.default_rng(seed).normal(0, 3, (40, 40, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + 35 * shade + noise, 0, 255).astype(np.uint8)
    path = folder / f"{colour}-{shade}-{seed}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


ODD = {"black": (0, 0, 0), "white": (255, 255, 255), "yellow": (255, 255, 0), "stripes": None}


def odd(folder, name):
    """A picture like no other."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((40, 40, 3), dtype=np.uint8) + np.array(ODD[name] or (0, 255, 255), dtype=np.uint8)
    if ODD[name] is None:
        pixels[::8] = pixels[1::8] = pixels[2::8] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / f"odd-{name}.png")


def first_columns(features, **_settings):
    return (features - features.mean(0)).float()[:, :3]


@pytest.fixture(scope="module")
def once(tmp_path_factory, weights):
    """Clusters of photos of four colours in two shades each, and of four odd ones, two of which belong nowhere."""
    folder = tmp_path_factory.mktemp("density")
    for colour in COLOURS:
        for shade in range(SHADES):
            for seed in range(OF_EACH):
                shaded(folder / "photos", colour, shade, seed)
    for name in ODD:
        odd(folder / "photos", name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shoal.clustering.density.umap_embedding", first_columns)
        patch.chdir(folder)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert main(["cluster", "photos", *DENSITY, *flags_of(weights)]) == 0
    return folder, said.getvalue()


@pytest.fixture
def made(once, tmp_path, monkeypatch):
    """The same as if they had just been made, in the working folder."""
    shutil.copytree(once[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "clusters/photos"
    replace(Result.load(folder), source=str(tmp_path / "photos")).save()
    return folder


def kinds_agree(found):
    """Whether clusters are colours in shades, among the images that are in one."""
    inside = [name for name in found if found[name] >= 0 and not name.startswith("odd")]
    return len(inside) == 80 and adjusted_rand_score([name[:-6] for name in inside], [found[n] for n in inside]) == 1


def test_noise_and_layers_are_told_and_kept(once, made):
    said = once[1]
    assert "clusters     8, of 84\nnowhere      2 (2.4%) are in no cluster\n" in said
    assert "layers       also 2 clusters: shoal cluster clusters/photos -k 2 --out clusters/photos-2\n" in said
    assert "method       UMAP and HDBSCAN of all rows\n" in said
    found = clusters_in(made)
    assert kinds_agree(found)
    assert {name for name, cluster in found.items() if cluster < 0} == {"odd-white.png", "odd-yellow.png"}
    rows = {row["id"]: row for row in table(made / "assignments.csv")}
    assert [rows["odd-white.png"][each] for each in ("confidence", "distance", "margin")] == ["0", "nan", "nan"]
    assert all(float(row["confidence"]) > 1 / 8 for row in rows.values() if row["cluster"] != "-1")
    assert {row["cluster"] for row in table(made / "representatives.csv")} == set(map(str, range(8)))
    assert np.load(made / "centers.npy").shape == (8, 96)
    page = (made / "report.html").read_text()
    assert "2 (2.4\u202f%) in no cluster" in page
    assert "2 is another layer" in page
    assert "2 images are in no cluster" in page
    assert "-k 2 --out" in page
    assert "min_cluster_size: 6" in (made / "config.yaml").read_text()
    assert "--method density --min-cluster-size 6" in page


@pytest.mark.slow
def test_another_layer_needs_neither_network_nor_umap(made, monkeypatch, capsys):
    for what in ("shoal.clustering.density.umap_embedding", "shoal.features.Encoder.embed"):
        monkeypatch.setattr(what, lambda *_, **__: 1 / 0)
    before = clusters_in(made)
    assert main(["cluster", "clusters/photos", "-k", "2", "--out", "two"]) == 0
    said = capsys.readouterr().out
    assert "clusters     2, of 84" in said
    assert "a layer of the density in clusters/photos; nothing was fitted" in said
    assert "layers       also 8 clusters: shoal cluster two -k 8 --out two-8" in said
    after = clusters_in(made.parent.parent / "two")
    inside = [name for name in before if before[name] >= 0 <= after[name]]
    assert len(inside) > 50
    assert len({(before[name], after[name]) for name in inside}) == len({before[name] for name in inside})
    assert "-k 8 --out red-8" in layer_command(Result.load(renamed := (made.parent.parent / "two").rename("red-2")), 8)
    assert main(["cluster", str(renamed), "-k", "8", "--out", "eight"]) == 0
    assert clusters_in(made.parent.parent / "eight") == before
    assert main(["cluster", "clusters/photos", "-k", "5", "--out", "five"]) == 2
    assert "there is no layer of 5 clusters: the density suggests 2 and 8, so give one of these" in (
        capsys.readouterr().err
    )
    assert main(["cluster", "clusters/photos", "-k", "5", "--method", "kmeans", "--out", "five"]) == 0
    assert set(clusters_in(made.parent.parent / "five").values()) == set(range(5))


def test_new_images_and_updates(made, capsys):
    new = made.parent.parent / "new"
    shaded(new, "red", 1, 77)
    odd(new, "white")
    assert main(["predict", "clusters/photos", "new", "--out", "new.csv"]) == 0
    predicted = {row["id"]: int(row["cluster"]) for row in table(made.parent.parent / "new.csv")}
    before = clusters_in(made)
    assert "2 images in 8 clusters, 1 of them in none: new.csv" in capsys.readouterr().out
    assert predicted == {"red-1-77.png": before["red-1-0.png"], "odd-white.png": -1}
    photos = made.parent.parent / "photos"
    shaded(photos, "red", 1, 77)
    odd(photos / "more", "yellow")
    assert main(["update", "clusters/photos"]) == 0
    assert "nowhere      3 (3.5%) are in no cluster" in capsys.readouterr().out
    after = clusters_in(made)
    assert (after.pop("red-1-77.png"), after.pop("more/odd-yellow.png")) == (before["red-1-0.png"], -1)
    assert after == before
    assert {row["id"]: row["cluster"] for row in table(made / "changes.csv")}["more/odd-yellow.png"] == "-1"


def test_sorted_exported_and_asked_about(made, capsys):
    nowhere = {"odd-white.png", "odd-yellow.png"}
    assert main(["sort", "clusters/photos", "--copy", "sorted", "--yes"]) == 0
    assert "2 images are in no cluster and stay where they are" in capsys.readouterr().out
    copied = {path.name for path in (made.parent.parent / "sorted").rglob("*.png")}
    assert copied == clusters_in(made).keys() - nowhere
    assert main(["export", "clusters/photos", "ls", "--to", "label-studio"]) == 0
    tasks = json.loads((made.parent.parent / "ls/tasks.json").read_text())
    assert sum(not task.get("predictions") for task in tasks) == 2
    assert main(["export", "clusters/photos", "fo", "--to", "fiftyone"]) == 0
    assert main(["export", "clusters/photos", "xmp", "--to", "xmp"]) == 0
    assert len(list((made.parent.parent / "xmp").rglob("*.xmp"))) == 82
    assert main(["ask", "clusters/photos", "--out", "questions.csv", "-n", "20"]) == 0
    assert not nowhere & {row["id"] for row in table(made.parent.parent / "questions.csv")}
    assert main(["evaluate", "clusters/photos"]) == 0
    assert main(["report", "clusters/photos"]) == 0


def test_a_person_takes_noise_in(made):
    """Decisions play over −1 as over clusters: what is moved in stays in, and other noise stays noise."""
    answers = made.parent.parent / "answers.csv"
    cluster = clusters_in(made)["red-1-0.png"]
    answers.write_text(f"id,answer\nodd-white.png,{cluster}\nred-0-0.png,nowhere\n")
    assert main(["learn", "clusters/photos", str(answers), "--yes"]) == 0
    after = clusters_in(made)
    assert (after["odd-white.png"], after["red-0-0.png"]) == (cluster, -1)
    assert after["odd-yellow.png"] == -1
    state = Session(Result.load(made)).state()
    assert state["nowhere"] == sum(each < 0 for each in after.values())
    assert state["layers"] == [2]


@pytest.mark.slow
def test_a_review_changes_to_another_layer_and_back(made):
    with Result.load(made).folder.alone():
        desk = Desk(Result.load(made))
        first = desk.session
        first.decide("first-key", [{"do": "rename", "cluster": 0, "name": "kept here"}])
        second = desk.take(2)
        assert desk.session is second
        assert second.place.name == "photos-2"
        assert (second.state()["layers"], len(second.state()["clusters"]), second.now.names) == ([8], 2, {})
        assert second.key != first.key
        second.decide("second-key", [{"do": "rename", "cluster": 1, "name": "of the layer"}])
        assert desk.take(8) is first  # made once, and not anew under another name
        assert desk.take(2) is second
        with pytest.raises(UserError, match="there is no layer of 5 clusters"):
            desk.take(5)
        with pytest.raises(UserError, match="close its review"), Result.load(second.place).folder.alone():
            pass
        desk.close()
    assert Result.load(made).names == {0: "kept here"}
    assert Result.load(second.place).names == {1: "of the layer"}
    assert "of the layer" in (second.place / "assignments.csv").read_text()
    with Result.load(second.place).folder.alone():
        again = Desk(Result.load(second.place))  # another day it begins with the layer
        assert again.take(8).place == made.resolve()
        assert again.session.now.names == {0: "kept here"}
        again.close()


def test_a_folder_that_is_called_after_its_layer_alone(made):
    odd = made.rename(made.with_name("-8"))
    assert "-k 2 --out" in layer_command(Result.load(odd), 2)


def test_a_layer_spares_what_is_in_its_folder(made):
    other = made.with_name("photos-2")
    other.mkdir()
    (other / "mine.txt").write_text("kept")
    desk = Desk(Result.load(made))
    with pytest.raises(UserError, match="photos-2"):
        desk.take(2)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]
    assert desk.session.place == made.resolve()


def test_labels_and_what_belongs_nowhere(tmp_path, monkeypatch, capsys, network, once):
    monkeypatch.chdir(tmp_path)
    for path in (once[0] / "photos").iterdir():
        target = tmp_path / "photos" / path.name.partition("-")[0] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert main(["cluster", "photos", *DENSITY, *network]) == 0
    assert re.search(r"labels .* among the images in clusters; they had no part", capsys.readouterr().out)
    assert main(["evaluate", "clusters/photos"]) == 0
    found = json.loads((tmp_path / "clusters/photos/evaluation.json").read_text())
    assert (found["nowhere"], found["labelled"], found["clusters"]) == (2, 84, 8)
    said = " ".join(capsys.readouterr().out.split())
    wrong = found["scores"]["acc"] * 82 / 84
    assert f"2 images that belong nowhere are left out; as errors they would make the accuracy {wrong:.4f}." in said


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ["--min-cluster-size", "9"],
            "--min-cluster-size is for --method density: give that as well, or leave it out.",
        ),
        (["--method", "density", "--min-cluster-size", "1"], "--min-cluster-size 1 must be at least 2."),
        (["--method", "density", "--k-range", "2", "5"], "--method density finds the number of clusters itself"),
        (["--method", "density", "-k", "5"], "there is no layer of 5 clusters: the density suggests"),
        (
            ["--method", "density", "--min-cluster-size", "130"],
            "no two groups of 130 rows or more are denser than what",
        ),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, args, sentence):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nested(n=30)[0].numpy())
    assert main(["cluster", "rows.npy", *args]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_single_layer_is_told_as_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.ones((30, 20)))
    assert main(["cluster", "rows.npy", "--method", "density", "-k", "4"]) == 2
    assert "there is no layer of 4 clusters: the density suggests 1, so give that." in capsys.readouterr().err


@pytest.mark.parametrize(("n", "k"), [(3, None), (9, None), (30, 1)])
def test_few_and_equal_rows(tmp_path, monkeypatch, capsys, n, k):
    monkeypatch.chdir(tmp_path)
    rows = np.ones((n, 20)) if k else np.random.default_rng(0).normal(size=(n, 20))
    np.save("rows.npy", rows)
    assert main(["cluster", "rows.npy", "--method", "density"]) == (0 if k else 2)
    said = capsys.readouterr()
    assert ("clusters     1, of 30\nmethod" in said.out) if k else (f"all {n} would belong nowhere" in said.err)


def test_copies_count_once_and_what_cannot_be_lowered_is_not_advised(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", np.eye(3, 20)[np.arange(60) % 3])
    assert main(["cluster", "rows.npy", "--method", "density", "--min-cluster-size", "2"]) == 2
    said = capsys.readouterr().err
    assert "only 3 of 60 rows differ, and no two groups of 2 rows or more are denser" in said
    assert "all 60 would belong nowhere: cut them into parts with" in said


def test_a_result_by_density_takes_no_range_either(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nested(n=30)[0].numpy())
    assert main(["cluster", "rows.npy", "--method", "density", "--quiet"]) == 0
    assert main(["cluster", "clusters/rows", "--k-range", "2", "5", "--out", "other"]) == 2
    assert "leave out --k-range" in capsys.readouterr().err
    assert main(["cluster", "clusters/rows", "--k-range", "2", "5", "--out", "other", "--method", "kmeans"]) == 0


def test_layers_of_features(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nested(n=30)[0].numpy())
    assert main(["cluster", "rows.npy", "--method", "density"]) == 0
    assert "clusters     9, of 274\nnowhere " in capsys.readouterr().out
    assert main(["cluster", "clusters/rows", "-k", "3", "--out", "three"]) == 0
    three = Result.load(tmp_path / "three")
    assert (three.metric, three.layers, len(three.centers)) == ("euclidean", [9], 3)
    assert main(["predict", "three", "rows.npy", "--out", "again.csv"]) == 0
    assert [row["cluster"] for row in table(tmp_path / "again.csv")] == [
        row["cluster"] for row in table(tmp_path / "three/assignments.csv")
    ]


def test_clustered_again_without_a_number_it_keeps_its_smallest_cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nested(n=30)[0].numpy())
    density = ["--method", "density", "--quiet", "--min-cluster-size"]
    assert main(["cluster", "rows.npy", *density, "60", "--out", "one"]) == 0
    first = Result.load(Path("one"))
    assert (len(first.centers), first.layers) == (3, [9])
    assert main(["cluster", "one", "--quiet", "--out", "two"]) == 0
    again = Result.load(Path("two"))
    assert torch.equal(again.labels, first.labels)
    assert "min_cluster_size: 60" in Path("two/config.yaml").read_text()
    assert main(["cluster", "one", *density, "10", "--out", "three"]) == 0
    assert len(Result.load(Path("three")).centers) == 9


def test_a_layer_is_that_of_any_seed_unless_another_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", nested(n=30)[0].numpy())
    assert main(["cluster", "rows.npy", "--method", "density", "--seed", "5", "--out", "five"]) == 0
    capsys.readouterr()
    for seed, taken in (([], True), (["--seed", "5"], True), (["--seed", "0"], False)):
        out = Path("-".join(["out", *seed[1:]]))
        assert main(["cluster", "five", "-k", "3", *seed, "--out", str(out)]) == 0
        assert ("nothing was fitted" in capsys.readouterr().out) == taken
        assert Result.load(out).seed == (5 if taken else 0)
        assert f"seed: {5 if taken else 0}" in (out / "config.yaml").read_text()


@pytest.mark.parametrize("args", [["umap-kmeans"], ["umap-kmeans", "-k", "2"], ["density"], ["density", "-k", "2"]])
def test_two_images_are_too_few_for_umap_which_is_said_at_once(tmp_path, monkeypatch, capsys, network, args):
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        shaded(tmp_path / "photos", "red", seed, 0)
    assert main(["cluster", "photos", "--quiet", "--method", *args, *network]) == 2
    assert f"{args[0]} needs 3 images at least: give --method kmeans." in capsys.readouterr().err
    assert not [*tmp_path.glob("clusters/photos/suggestion*")]
    assert main(["cluster", "photos", "--quiet", "-k", "2", *network]) == 0
