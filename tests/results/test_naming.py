"""Clusters are named and images found by what the network knows; what it does not know is said in a sentence."""

import csv
import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import load_file
from tests.commands import complaint
from tests.features.examples import write_weights
from tests.results.conftest import flags_of
from tests.shapes import KINDS, shape, trained_clip

from shoal.cli.main import main
from shoal.errors import UserError
from shoal.features import text
from shoal.results import naming
from shoal.results.naming import log_odds, read_words, search_text, suggest_names
from shoal.results.result import Result

EACH = 12

LITE0 = Path.home() / ".cache/shoal/tf_efficientnet_lite0.safetensors"
PHOTOS = Path(__file__).parents[3] / "shared/data/tiny-imagenet-10"

SYNONYMS = {
    "african_elephant": {"African elephant", "tusker"},
    "black_stork": {"black stork"},
    "chihuahua": {"Chihuahua"},
    "goldfish": {"goldfish"},
    "orange": {"orange"},
    "persian_cat": {"Persian cat"},
    "rocking_chair": {"rocking chair"},
    "school_bus": {"school bus"},
    "sports_car": {"sports car"},
    "umbrella": {"umbrella"},
}
"""Classes of Tiny-ImageNet, and the names of ImageNet that fit them; a tusker is an animal with tusks."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Clusters of coloured shapes, by a network that has learned their names."""
    folder = tmp_path_factory.mktemp("shapes")
    name, rng = trained_clip(folder / "clip"), np.random.default_rng(1)
    (folder / "images").mkdir()
    for kind in KINDS:
        for number in range(EACH):
            shape(kind, rng).save(folder / "images" / f"{kind.replace(' ', '-')}-{number}.png")
    command = ["cluster", str(folder / "images"), "-k", str(len(KINDS)), "--backbone.name", name]
    assert main([*command, "--out", str(folder / "result"), "--quiet"]) == 0
    return folder / "result"


def kinds_of(result: Result):
    """What each cluster mostly holds."""
    kinds = [name.rpartition("-")[0].replace("-", " ") for name in result.ids]
    own = [[kind for kind, label in zip(kinds, result.assignments.labels.tolist(), strict=True) if label == c]
           for c in range(len(result.centers))]  # fmt: skip
    return [max(set(each), key=each.count) for each in own]


def test_coloured_shapes_are_named(shapes):
    result = Result.load(shapes)
    expected = kinds_of(result)
    assert sorted(expected) == sorted(KINDS)
    found = suggest_names(result, KINDS)
    assert [names[0].name for names in found] == expected
    assert all(names[0].score > math.log(10) for names in found)
    assert all(len(names) <= 3 and names == sorted(names, key=lambda each: -each.score) for names in found)
    assert result.names == {}  # suggestions are not names


def test_words_that_repeat_are_suggested_once(shapes):
    result = Result.load(shapes)
    for names in suggest_names(result, [*KINDS, *KINDS]):
        assert len({name for name, _ in names}) == len(names) > 0
    with pytest.raises(UserError, match="there are no words"):
        suggest_names(result, [])


def test_coloured_shapes_are_found(shapes):
    result = Result.load(shapes)
    for kind in KINDS:
        rows, cosines = search_text(result, kind, EACH)
        assert cosines.tolist() == sorted(cosines.tolist(), reverse=True)
        right = [result.ids[row].startswith(kind.replace(" ", "-")) for row in rows.tolist()]
        assert sum(right) >= EACH - 1
    assert len(search_text(result, "red circle", 1000)[0]) == EACH * len(KINDS)
    for nothing in ("", "  \n"):
        with pytest.raises(UserError, match="the text is empty"):
            search_text(result, nothing)


def test_the_commands_print_and_write(shapes, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("\ufeff" + "\r\n".join([*KINDS, "", KINDS[0]]))
    assert main(["names", str(shapes), "--words", str(words)]) == 0
    said = capsys.readouterr().out
    result = Result.load(shapes)
    lines = said.splitlines()[1:]
    for cluster, kind in enumerate(kinds_of(result)):
        assert lines[cluster].split()[:5] == [str(cluster), str(EACH), "-", *kind.split()]
    assert main(["find", str(shapes), "green cross", "-n", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4
    assert all("green-cross" in line for line in printed[1:])
    out = tmp_path / "found.csv"
    assert main(["find", str(shapes), "green cross", "-n", "3", "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [line.split()[-1] for line in printed[1:]]
    assert main(["find", str(shapes), "x", "--out", str(out)]) == 2
    assert "exists already" in complaint(capsys)
    assert main(["find", str(shapes), "x", "-n", "0"]) == 2
    assert main(["find", str(shapes), " "]) == 2
    assert "the text is empty" in complaint(capsys)


def test_new_images_join_such_a_result(shapes, tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "new").mkdir()
    for kind in KINDS:
        shape(kind, rng).save(tmp_path / "new" / f"{kind}.png")
    out = tmp_path / "a.parquet"
    assert main(["predict", str(shapes), str(tmp_path / "new"), "--out", str(out)]) == 0
    table, expected = pq.read_table(out).to_pydict(), kinds_of(Result.load(shapes))
    assert [f"{expected[cluster]}.png" for cluster in table["cluster"]] == table["id"]


def test_long_lists_of_words_are_embedded_once(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path))
    monkeypatch.setattr(naming, "_KEPT_FROM", len(KINDS))
    result = Result.load(shapes)
    first = suggest_names(result, KINDS)
    (kept,) = tmp_path.glob("words-*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(text.TextTower, "embed", lambda *_: pytest.fail("embedded again"))
        assert suggest_names(result, KINDS) == first
    kept.write_bytes(b"torn")
    assert suggest_names(result, KINDS) == first


def test_words_of_imagenet_are_the_default(shapes, monkeypatch):
    assert len(naming.imagenet_words()) == 20_101
    monkeypatch.setattr(naming, "imagenet_words", lambda: ["blue circle", "red cross"])
    found = suggest_names(Result.load(shapes))
    assert {names[0].name for names in found if names} == {"blue circle", "red cross"}


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """Weights with a classifier of ImageNet's size whose classes are single features."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"

    def change(tensors):
        width = tensors["fc.weight"].shape[1]
        tensors["fc.weight"] = torch.zeros(1000, width)
        tensors["fc.weight"][:width] = 200 * torch.eye(width)
        tensors["fc.bias"] = torch.zeros(1000)

    return write_weights(path, "test_resnet", change=change)


def test_classes_that_a_cluster_prefers_are_suggested(photos, telling, tmp_path):
    out = tmp_path / "result"
    flags = flags_of(telling.weights)
    assert main(["cluster", str(photos), "-k", "4", "--out", str(out), "--quiet", *flags]) == 0
    result = Result.load(out)
    found = suggest_names(result, most=2)
    logits = torch.zeros(len(result.ids), 1000, dtype=torch.float64)
    weights = load_file(telling.weights)
    logits += result.features.double() @ weights["fc.weight"].double().T + weights["fc.bias"]
    classes = [names.partition(",")[0] for names in timm.data.ImageNetInfo().label_descriptions()]
    for cluster, names in enumerate(found):
        own = result.assignments.labels == cluster
        others = [result.assignments.labels == other for other in range(4) if other != cluster]
        p = logits[own].softmax(1).mean(0)
        q = torch.stack([logits[other].softmax(1).mean(0) for other in others]).mean(0)
        score = torch.log((p + 0.01) * (1.01 - q) / ((1.01 - p) * (q + 0.01)))
        best = [at for at in score.argsort(descending=True).tolist() if score[at] > math.log(2)][:2]
        assert [name for name, _ in names] == [classes[at] for at in best]
        np.testing.assert_allclose([value for _, value in names], score[best], atol=1e-4)
    assert any(found)


def test_a_name_that_all_clusters_share_is_none():
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], dtype=torch.float64)
    scores = log_odds(shares)
    assert scores[:, 0].tolist() == [0, 0]
    assert scores[0, 1] == scores[1, 2] == pytest.approx(math.log(0.51 / 0.51 * 1.01 / 0.01))
    single = log_odds(shares[:1])
    assert single[0, 0] == pytest.approx(math.log(0.51 / 0.51) - math.log((1 / 3 + 0.01) / (2 / 3 + 0.01)))


def test_networks_without_names_say_what_to_do(clusters, run, tmp_path, capsys):
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(30, 20)).astype(np.float32))
    given = tmp_path / "given"
    assert main(["cluster", str(tmp_path / "f.npy"), "-k", "2", "--out", str(given), "--quiet"]) == 0
    for path, reason in (
        (clusters, "the weights of test_resnet have no classifier"),
        (run, "a network that was trained without labels knows no words"),
        (given, "features were clustered, whose network is not known"),
    ):
        assert main(["names", str(path)]) == 2
        said = complaint(capsys)
        assert reason in said
        assert "--backbone.name open_clip:ViT-B-32" in said
    for path, reason in ((clusters, "timm's network test_resnet reads no text"), (run, "knows no words")):
        assert main(["find", str(path), "a red car"]) == 2
        said = complaint(capsys)
        assert reason in said
        assert "--backbone.name open_clip:ViT-B-32" in said
    (tmp_path / "words.txt").write_text("dog\n")
    assert main(["names", str(clusters), "--words", str(tmp_path / "words.txt")]) == 2
    assert "reads no words" in complaint(capsys)


def test_weights_that_are_gone_are_asked_for(photos, telling, tmp_path, capsys):
    kept = tmp_path / "kept.safetensors"
    shutil.copy(telling.weights, kept)
    out = tmp_path / "result"
    assert main(["cluster", str(photos), "-k", "2", "--out", str(out), "--quiet", *flags_of(kept)]) == 0
    kept.unlink()
    capsys.readouterr()
    assert main(["names", str(out)]) == 2
    said = complaint(capsys)
    assert "are gone: restore the file" in said
    assert "To get some" not in said


def test_files_that_are_no_lists_of_words_are_refused(tmp_path):
    for name, content, sentence in (
        ("empty", b" \n\n", "has no words"),
        ("latin", "Vögel".encode("latin-1"), "not UTF-8 text"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_words(tmp_path / name)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_words(path)
    (tmp_path / "words").write_text("a  red\tcar \n\nα\na red car\n", encoding="utf-8")
    assert read_words(tmp_path / "words") == ["a red car", "α"]


def test_empty_clusters_have_no_names(shapes):
    result = Result.load(shapes)
    labels = result.assignments.labels
    moved = dataclasses.replace(result.assignments, labels=torch.where(labels == 2, 1, labels))
    emptied = Result.load(shapes)
    emptied.__dict__["clustered"] = (result.table_ids, moved, {})
    found = suggest_names(emptied, KINDS)
    assert found[2] == []
    assert all(found[cluster] for cluster in range(len(KINDS)) if cluster != 2)


@pytest.mark.slow
@pytest.mark.skipif(not (LITE0.is_file() and PHOTOS.is_dir()), reason="weights and images are not here")
def test_lite0_names_the_classes_of_tiny_imagenet(tmp_path):
    flags = ["--backbone.name", "tf_efficientnet_lite0", "--backbone.weights", str(LITE0)]
    for name in SYNONYMS:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for file in sorted((PHOTOS / name).iterdir())[:60]:
            shutil.copy(file, tmp_path / "photos" / name)
    assert (
        main(["cluster", str(tmp_path / "photos"), "-k", "10", "--out", str(tmp_path / "out"), "--quiet", *flags]) == 0
    )
    result = Result.load(tmp_path / "out")
    classes = [name.partition("/")[0] for name in result.ids]
    labels = result.assignments.labels.tolist()
    found = suggest_names(result)
    right = 0
    for cluster, names in enumerate(found):
        own = [each for each, label in zip(classes, labels, strict=True) if label == cluster]
        right += names[0].name in SYNONYMS[max(set(own), key=own.count)]
    assert right >= 9


def test_images_that_are_drawn_are_those_of_their_cluster(monkeypatch):
    monkeypatch.setattr(naming, "_OF_EACH", 20)
    labels = torch.randint(-1, 6, (300,), generator=torch.Generator().manual_seed(0))
    labels[labels == 3] = -1
    labels[labels == 5] = 4
    labels[:7] = 5
    drawn = naming._drawn_rows(labels, 6, 0)
    for cluster, rows in enumerate(drawn):
        own = (labels == cluster).nonzero()[:, 0].tolist()
        assert {*rows.tolist()} <= {*own}
        assert len({*rows.tolist()}) == len(rows) == min(20, len(own))
    assert len(drawn[3]) == 0
    assert all(map(torch.equal, drawn, naming._drawn_rows(labels, 6, 0)))
