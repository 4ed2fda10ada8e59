"""Frames of videos through the commands: clustered, sorted, predicted, updated, exported."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.results.conftest import COLOURS, flags_of
from tests.videos import SIZE, encode

from shoal.cli.main import main
from shoal.features import open_embedded
from shoal.results.result import Result
from shoal.review.facts import Facts


def shots(colour):
    """Noisy frames of one colour, which all differ."""

    def draw(number):
        noise = np.random.default_rng(number).normal(0, 12, (SIZE[1], SIZE[0], 3))
        return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)

    return draw


def film(path, colour, n=60):
    """Six seconds, of which --every 1s takes six frames."""
    return encode(path, n, draw=shots(colour))


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights):
    """Videos among photos, one of them there twice, and their clusters."""
    folder = tmp_path_factory.mktemp("videos")
    for colour in ("red", "green", "blue"):
        film(folder / "film" / f"{colour}.mkv", colour)
    shutil.copy(folder / "film" / "red.mkv", folder / "film" / "red again.mkv")
    for number in range(3):
        Image.fromarray(shots("green")(100 + number)).save(folder / "film" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SHOAL_CACHE", str(folder / "cache"))
        assert main(["cluster", "film", "-k", "3", "--every", "1s", "--quiet", *flags_of(weights)]) == 0
    return folder


@pytest.fixture
def films(made, tmp_path, monkeypatch):
    """A copy of it, with the videos in the place that the result knows."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("SHOAL_CACHE", str(made / "cache"))
    shutil.copytree(made / "clusters", tmp_path / "clusters")
    return tmp_path / "clusters" / "film"


def table(path):
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


def test_frames_are_clustered_among_photos(films):
    rows = {row["id"]: row["cluster"] for row in table(films / "assignments.csv")}
    assert len(rows) == 27
    assert len({rows[f"blue.mkv#t={time}.0"] for time in range(6)}) == 1
    assert {rows["green.mkv#t=3.0"]} == {rows[f"{number}.png"] for number in range(3)}
    assert "blue.mkv#t=5.0" in (films / "report.html").read_text()


def test_a_video_that_is_there_twice_is_a_duplicate_frame_by_frame(films):
    groups = {}
    for row in table(films / "duplicates.csv"):
        if row["kind"] == "exact":
            groups.setdefault(row["group"], set()).add(row["id"])
    expected = [{f"red.mkv#t={time}.0", f"red again.mkv#t={time}.0"} for time in range(6)]
    assert all(any(pair <= group for group in groups.values()) for pair in expected)


def test_frames_are_sorted_as_still_images(films, tmp_path, capsys):
    assert main(["sort", str(films), "--move", str(tmp_path / "sorted")]) == 2
    assert "a video or a storage and cannot be moved: use --copy." in capsys.readouterr().err
    assert main(["sort", str(films), "--copy", str(tmp_path / "sorted"), "--yes"]) == 0
    assert "24 of them come out of archives, tables or videos" in capsys.readouterr().out
    (still,) = (tmp_path / "sorted").glob("*/blue.mkv#t=2.0.png")
    with Image.open(still) as image:
        assert np.array_equal(np.asarray(image), shots("blue")(20))
    assert main(["sort", "--undo", str(tmp_path / "sorted" / "sorted.jsonl")]) == 0
    assert not (tmp_path / "sorted").exists()


def test_new_videos_are_put_into_the_clusters(films, tmp_path):
    path = film(tmp_path / "more.mkv", "blue")
    assert main(["predict", str(films), str(path), "--out", str(tmp_path / "usual.csv")]) == 0
    assert main(["predict", str(films), str(path), "--every", "3s", "--out", str(tmp_path / "rare.csv")]) == 0
    assert [row["id"] for row in table(tmp_path / "rare.csv")] == ["more.mkv#t=0.0", "more.mkv#t=3.0"]
    clusters = {row["id"]: row["cluster"] for row in table(films / "assignments.csv")}
    usual = table(tmp_path / "usual.csv")
    assert len(usual) == 6
    assert {row["cluster"] for row in usual} == {clusters["blue.mkv#t=0.0"]}


def test_an_update_sees_renamed_new_and_vanished_videos(films, tmp_path, capsys):
    here = tmp_path / "here"
    shutil.copytree(Path("film"), here)
    (here / "blue.mkv").rename(here / "azure.mkv")
    (here / "green.mkv").unlink()
    film(here / "grey.mkv", "grey", 20)
    shutil.move("film", "away")
    try:
        assert main(["update", str(films), str(here)]) == 0
    finally:
        shutil.move("away", "film")
    assert "2 new, 6 renamed, 6 vanished" in capsys.readouterr().out
    ids = [row["id"] for row in table(films / "assignments.csv")]
    assert "azure.mkv#t=5.0" in ids
    assert "grey.mkv#t=1.0" in ids
    assert not any(name.startswith("green") for name in ids)
    assert main(["update", str(films)]) == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_an_interrupted_embedding_goes_on_within_a_video(made, weights, tmp_path, monkeypatch):
    from shoal.features import extract, filling, load_encoder
    from shoal.features.encoder import EncoderSpec

    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(filling, "_COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(extract, "choose_batch_size", lambda _encoder: 4)
    from shoal.data import find_source

    encoder = load_encoder(EncoderSpec("timm", flags_of(weights)[1], str(weights)))
    source = find_source(str(made / "film"), every="1s")

    def stop(done, _total):
        if done == 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract.embed(source, encoder, tmp_path / "stopped", progress=stop)
    assert 4 <= len(open_embedded(tmp_path / "stopped", unfinished=True).rows) < 18
    again = extract.embed(find_source(str(made / "film"), every="1s"), encoder, tmp_path / "stopped")
    whole = extract.embed(source, encoder, tmp_path / "whole")
    assert list(again.ids) == list(whole.ids)
    assert np.array_equal(again.features.numpy(), whole.features.numpy())
    assert np.array_equal(again.fingerprints.numpy(), whole.fingerprints.numpy())
    stats = again.stats.numpy()
    assert (stats[:, 0] == [(made / "film" / name.partition("#")[0]).stat().st_size for name in again.ids]).all()


def test_images_without_files_are_exported_as_copies(films, tmp_path):
    assert main(["export", str(films), str(tmp_path / "studio"), "--to", "label-studio"]) == 0
    assert len([*(tmp_path / "studio" / "images").iterdir()]) == 24
    assert main(["export", str(films), str(tmp_path / "fifty"), "--to", "fiftyone"]) == 0
    labels = json.loads((tmp_path / "fifty" / "labels.json").read_text())["labels"]
    assert {file.stem for file in (tmp_path / "fifty" / "data").iterdir()} == {key for key in labels if key[0] != "/"}
    (still,) = (tmp_path / "fifty" / "data").glob("*blue.mkv#t=2.0.png")
    with Image.open(still) as image:
        assert np.array_equal(np.asarray(image), shots("blue")(20))


def test_a_video_has_one_sidecar(films, tmp_path):
    assert main(["export", str(films), str(tmp_path / "xmp"), "--to", "xmp"]) == 0
    expected = {"blue.mkv", "green.mkv", "red.mkv", "red again.mkv", "0.png", "1.png", "2.png"}
    assert {file.name for file in (tmp_path / "xmp").iterdir()} == {f"{name}.xmp" for name in expected}
    (cluster,) = {row["cluster"] for row in table(films / "assignments.csv") if row["id"].startswith("blue")}
    assert f"<rdf:li>cluster {int(cluster):02}</rdf:li>" in (tmp_path / "xmp" / "blue.mkv.xmp").read_text()


def test_a_review_shows_frames(films):
    facts = Facts(Result.load(films))
    assert all(facts.thumbs([*range(len(facts.ids))]))
    row = facts.ids.index("blue.mkv#t=2.0")
    content, kind = facts.full(row)
    with Image.open(io.BytesIO(content)) as image:
        assert np.abs(np.asarray(image).astype(int) - shots("blue")(20)).mean() < 12
    assert kind == "image/jpeg"
    assert facts.dates[row] == int(Path("film/blue.mkv").stat().st_mtime // 60)


def test_strict_fails_with_a_damaged_video(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    path = film(tmp_path / "film" / "cut.mkv", "red")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    command = ["cluster", "film", "-k", "1", "--every", "1s", *flags_of(weights)]
    assert main([*command, "--strict"]) == 2
    assert "cannot read the image cut.mkv (a damaged video, or one that was cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["film", "--every", "soon"], "--every 'soon' is not an interval"),
        (["film/0.png", "--every", "1s"], "takes frames of videos, and there are none in film/0.png: leave it out."),
        (["film/red.mkv"], "is a video: say how often to take a frame of it, as with --every 2s."),
        (["clusters/film", "--every", "1s"], "leave out --every"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(made, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(made)
    assert main(["cluster", *words, "-k", "2", "--out", "no"]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_run_trains_on_frames(tmp_path, monkeypatch):
    from tests.runs import tiny_recipe

    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))
    recipe = tiny_recipe(tmp_path)
    for colour in ("red", "green", "blue"):
        film(tmp_path / "film" / f"{colour}.mkv", colour)
    words = ["--data.path", str(tmp_path / "film"), "--data.every", "500ms", "--data.size", "16", "--quiet"]
    assert main(["train", str(recipe), *words, "--out", str(tmp_path / "run")]) == 0
    ids = [row["id"] for row in table(tmp_path / "run" / "assignments.csv")]
    assert len(ids) == 36
    assert ids[1] == "blue.mkv#t=0.5"
    assert main(["sort", str(tmp_path / "run"), "--copy", str(tmp_path / "sorted"), "--yes"]) == 0
    assert len([*(tmp_path / "sorted").glob("*/*.png")]) == 36


@pytest.mark.slow
def test_a_list_of_videos_is_found_again(made, weights, tmp_path, monkeypatch, capsys):
    from shoal.data.sources import find

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_CACHE", str(made / "cache"))
    shutil.copytree(made / "film", tmp_path / "film")
    paths = ["film/red.mkv", "film/0.png", "film/blue.mkv"]
    monkeypatch.setattr(find, "_stdin_paths", lambda: paths)
    assert main(["cluster", "-", "-k", "2", "--every", "2s", "--out", "found", "--quiet", *flags_of(weights)]) == 0
    assert len(table(Path("found/assignments.csv"))) == 7
    assert main(["sort", "found", "--copy", "sorted", "--yes"]) == 0
    assert len([*Path("sorted").glob("*/*.png")]) == 7
    assert main(["update", "found"]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    Path("film/blue.mkv").unlink()
    assert main(["update", "found"]) == 0
    assert "3 vanished" in capsys.readouterr().out
