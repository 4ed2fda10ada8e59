"""Several networks at once: each one's features are kept for themselves, joined, and serve whatever comes after."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from tests.clips import new_clip, save_clip
from tests.commands import complaint
from tests.features.examples import write_weights
from tests.results.conftest import BACKBONE, COLOURS, EACH, photograph

from shoal.cli.main import main
from shoal.features import Encoder, EncoderSpec, embed, load_encoder, open_embedded
from shoal.features.joining import Joining, Space
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results import cluster_images
from shoal.results.chosen import chosen_networks
from shoal.results.inputs import read_inputs
from shoal.results.naming import search_text, suggest_names
from shoal.results.networks import features_by
from shoal.results.result import Result

pytestmark = pytest.mark.usefixtures("photos", "no_umap")

SECOND, THIRD = "test_vit", "test_efficientnet"


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """Files of weights by the name of their network."""
    folder = tmp_path_factory.mktemp("several")
    others = {name: write_weights(folder / f"{name}.safetensors", name).weights for name in (SECOND, THIRD)}
    return {BACKBONE: str(weights), **others}


def flags(files, *names):
    return ["--backbone.name", ",".join(names), "--backbone.weights", ",".join(files[name] for name in names)]


@pytest.fixture(scope="module")
def made(files, tmp_path_factory):
    """Photos and their clusters by two networks, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    for colour in COLOURS:
        for seed in range(EACH):
            photograph(folder / "photos", colour, seed)
    command = ["cluster", str(folder / "photos"), "-k", "4", "--out", str(folder / "two"), "--quiet"]
    assert main([*command, *flags(files, BACKBONE, SECOND)]) == 0
    return folder


@pytest.fixture
def two(made, tmp_path):
    """Clusters by two networks, of photos that are the test's own."""
    shutil.rmtree(tmp_path / "photos")
    shutil.copytree(made / "photos", tmp_path / "photos")
    shutil.copytree(made / "two", tmp_path / "two")
    replace(Result.load(tmp_path / "two"), source=str(tmp_path / "photos")).save()
    return tmp_path / "two"


@pytest.fixture
def embedded(monkeypatch):
    """How many images each network has been given since."""
    counts: dict[str, int] = {}
    plain = Encoder.embed

    def counted(self, pixels):
        counts[self.spec.name] = counts.get(self.spec.name, 0) + len(pixels)
        return plain(self, pixels)

    monkeypatch.setattr(Encoder, "embed", counted)
    return counts


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def clusters_of(path):
    return {row["id"]: row["cluster"] for row in table(path)}


def same_groups(one, two):
    """Whether two tables put images together alike."""
    return len(set(zip(one.values(), (two[name] for name in one), strict=True))) == len(set(one.values()))


@pytest.mark.slow
def test_each_networks_features_are_as_it_makes_them_alone(two, files):
    for name in (BACKBONE, SECOND):
        alone = embed(
            Result.load(two).images, load_encoder(EncoderSpec("timm", name, files[name])), two / "alone" / name
        )
        kept = open_embedded(two / "networks" / name)
        assert torch.equal(kept.features, alone.features)
        assert list(kept.ids) == list(alone.ids)


def test_joint_features_are_scikit_learns_components(two):
    joint = open_embedded(two / "features").features.double()
    expected = []
    for name in (BACKBONE, SECOND):
        x = normalize(open_embedded(two / "networks" / name).features.double().numpy())
        z = PCA(0.95, svd_solver="full").fit_transform(x)
        expected.append(z / np.sqrt((z**2).sum(1).mean()))
    expected = np.concatenate(expected, 1)
    assert joint.shape == expected.shape
    torch.testing.assert_close(joint @ joint.T, torch.from_numpy(expected @ expected.T), atol=1e-4, rtol=1e-4)


def test_networks_count_alike_whatever_their_width_and_length():
    rng = torch.Generator().manual_seed(0)
    wide, narrow = 1000 * torch.rand(300, 900, generator=rng), torch.randn(300, 20, generator=rng) * 1e-3
    joining = Joining.fit([wide, narrow])
    widths = [space.axes.shape[1] for space in joining.spaces]
    blocks = joining.join([wide, narrow]).split(widths, 1)
    assert widths[0] > 4 * widths[1]
    for block in blocks:
        assert float(block.square().sum(1).mean()) == pytest.approx(1, abs=1e-4)
        assert float(block.mean(0).abs().max()) < 1e-3


@pytest.mark.parametrize("n", [1, 5])
def test_images_that_do_not_differ_have_a_direction(n):
    x = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)).expand(n, 30)
    found = Space.fit(x)(x)
    torch.testing.assert_close(found.abs(), torch.ones(n, 1))


def test_new_images_and_the_same_ones_go_to_the_same_clusters(two):
    assert main(["predict", str(two), "photos", "--out", "same.csv"]) == 0
    assert clusters_of("same.csv") == clusters_of("two/assignments.csv")
    shutil.copy("photos/blue-1.png", "one.png")
    assert main(["predict", "two", "one.png", "--out", "one.csv"]) == 0
    assert clusters_of("one.csv")["one.png"] == clusters_of("two/assignments.csv")["blue-1.png"]


def test_one_of_the_networks_alone_embeds_nothing(two, tmp_path, monkeypatch):
    shutil.rmtree(tmp_path / "photos")  # nor are the images needed
    monkeypatch.setattr(Encoder, "embed", lambda *_: pytest.fail("embedded again"))
    assert main(["cluster", "two", "-k", "4", "--backbone.name", SECOND, "--out", "alone"]) == 0
    assert torch.equal(
        open_embedded(Path("alone/features")).features, open_embedded(two / "networks" / SECOND).features
    )
    assert not Path("alone/networks").exists()
    assert main(["cluster", "two", "-k", "3", "--out", "three"]) == 0
    assert torch.equal(open_embedded(Path("three/features")).features, open_embedded(two / "features").features)
    assert main(["cluster", "three", "-k", "4", "--backbone.name", f"{SECOND},{BACKBONE}", "--out", "turned"]) == 0
    assert same_groups(clusters_of("turned/assignments.csv"), clusters_of("two/assignments.csv"))


@pytest.mark.slow
def test_a_third_network_embeds_for_itself_alone(two, files, embedded):
    photograph(Path("photos"), "red", 77)
    names = ["--backbone.name", f"{BACKBONE},{SECOND},{THIRD}", "--backbone.weights", f",,{files[THIRD]}"]
    assert main(["cluster", "two", "-k", "4", "--out", "three", *names]) == 0
    n = 4 * EACH
    # One image for the size of a batch, and the photo that has come.
    assert {name: count for name, count in embedded.items() if count > 3} == {THIRD: n + 2}
    assert len(table("three/assignments.csv")) == n + 1
    before, after = (open_embedded(folder / "networks" / SECOND) for folder in (two, Path("three")))
    kept = dict(zip(before.ids, before.features, strict=True))
    assert all(
        torch.equal(row, kept[name]) for name, row in zip(after.ids, after.features, strict=True) if name in kept
    )
    assert main(["predict", "three", "photos", "--out", "same.csv"]) == 0
    assert clusters_of("same.csv") == clusters_of("three/assignments.csv")


@pytest.mark.slow
def test_a_command_that_is_stopped_in_the_second_network_goes_on(files, made, monkeypatch, embedded):
    shutil.rmtree("photos")
    shutil.copytree(made / "photos", "photos")
    command = ["cluster", "photos", "-k", "4", "--out", "again", *flags(files, BACKBONE, SECOND)]
    counted = Encoder.embed

    def stopping(self, pixels):
        if self.spec.name == SECOND and len(pixels) > 1:
            raise KeyboardInterrupt
        return counted(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "embed", stopping)
        with pytest.raises(KeyboardInterrupt):
            main(command)
    embedded.clear()
    assert main(command) == 0
    assert embedded.get(BACKBONE, 0) <= 1
    assert embedded[SECOND] >= 4 * EACH
    again, whole = (open_embedded(folder / "features") for folder in (Path("again"), made / "two"))
    assert torch.equal(again.features, whole.features)
    assert clusters_of("again/assignments.csv") == clusters_of(made / "two/assignments.csv")


def stopped(*_given, **_settings):
    raise KeyboardInterrupt


def test_layers_are_taken_for_the_features_that_were_clustered_alone(two, tmp_path):
    for names, same in ([None, True], [[BACKBONE, SECOND], True], [[SECOND], False], [[SECOND, BACKBONE], False]):
        specs = names and chosen_networks(",".join(names), None)
        folder = ResultFolder(tmp_path / "-".join(["again", *(names or [])]))
        found = read_inputs(str(two), specs, None, folder, strict=False, progress=Progress())
        assert (found.earlier is not None) == same


@pytest.mark.slow
def test_a_list_may_be_begun_with_one_of_its_networks_and_end_with_another(files, monkeypatch, embedded):
    with monkeypatch.context() as patch:
        patch.setattr(cluster_images, "cluster", stopped)
        steps = {(BACKBONE,): BACKBONE, (BACKBONE, SECOND): SECOND, (SECOND,): "", (THIRD, SECOND): THIRD}
        for names, new in steps.items():
            embedded.clear()
            with pytest.raises(KeyboardInterrupt):
                main(["cluster", "photos", "-k", "4", "--out", "out", *flags(files, *names)])
            assert [name for name, count in embedded.items() if count > 1] == ([new] if new else [])
    assert main(["cluster", "photos", "-k", "4", "--out", "out", *flags(files, THIRD, SECOND)]) == 0
    assert json.loads(Path("out/features/header.json").read_text())["spec"]["name"] == f"{THIRD},{SECOND}"


def test_one_network_after_a_kill_while_several_were_joined(two, embedded, files):
    for path in (two / "clustering.safetensors", two / "features/header.json"):
        path.unlink()
    (two / "features/.header.json.abc.tmp").write_bytes(b"{")
    assert main(["cluster", "photos", "-k", "4", "--out", "two", *flags(files, BACKBONE)]) == 0
    assert embedded.get(BACKBONE, 0) <= 1  # to see how many images fit
    assert open_embedded(two / "features").spec.name == BACKBONE
    assert open_embedded(two / "networks" / SECOND).spec.name == SECOND


@pytest.mark.slow
def test_kill_9_loses_nothing(files, made, tmp_path):
    for at in (2, 5, 9):
        out = tmp_path / f"out{at}"
        command = ["cluster", str(made / "photos"), "-k", "4", "--out", str(out), *flags(files, BACKBONE, SECOND)]
        code = (
            "import os, signal, sys\n"
            "from shoal.features import store\n"
            "from shoal.cli.main import main\n"
            "calls = iter(range(99))\n"
            "plain = store.Store.commit\n"
            "def commit(self, *rest):\n"
            f"    if next(calls) == {at // 2 - 1}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    plain(self, *rest)\n"
            "store.Store.commit = commit\n"
            "main(sys.argv[1:])\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, *command], env=os.environ, check=False)
        if killed.returncode:
            assert killed.returncode == -signal.SIGKILL
            assert main(command) == 0
        assert clusters_of(out / "assignments.csv") == clusters_of(made / "two/assignments.csv")


def test_an_update_leaves_what_it_knows_to_the_last_bit(two, embedded):
    before = {name: open_embedded(two / name) for name in ("features", f"networks/{BACKBONE}", f"networks/{SECOND}")}
    kept = {name: dict(zip(each.ids, each.features.clone(), strict=True)) for name, each in before.items()}
    photograph(Path("photos"), "red", 88)
    Path("photos/grey-0.png").unlink()
    assert main(["update", "two"]) == 0
    assert [count for count in embedded.values() if count > 3] == []
    for name, old in kept.items():
        now = open_embedded(two / name)
        assert set(now.ids) == set(old) - {"grey-0.png"} | {"red-88.png"}
        assert all(torch.equal(row, old[each]) for each, row in zip(now.ids, now.features, strict=True) if each in old)
    rows = clusters_of("two/assignments.csv")
    assert rows["red-88.png"] == rows["red-1.png"]
    assert main(["predict", "two", "photos", "--out", "same.csv"]) == 0
    assert clusters_of("same.csv") == rows
    assert main(["update", "two"]) == 0


@pytest.mark.slow
def test_an_image_that_one_network_cannot_take_is_left_out_once(files, monkeypatch):
    Path("photos/broken.png").write_bytes(b"no image")
    plain = Encoder.embed

    def odd(self, pixels):
        found = plain(self, pixels)
        if self.spec.name == SECOND and len(pixels) > 1:
            found[:1] = torch.nan
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "embed", odd)
        assert main(["cluster", "photos", "-k", "4", "--out", "two", *flags(files, BACKBONE, SECOND)]) == 0
    lost = [row["id"] for row in table("two/skipped.csv")]
    assert len(lost) == len(set(lost))
    assert "broken.png" in lost
    assert len(lost) > 1
    assert len(table("two/assignments.csv")) == 4 * EACH + 1 - len(lost)
    assert len(open_embedded(Path("two/networks") / BACKBONE).rows) == 4 * EACH
    seen = features_by(result := Result.load(Path("two")), result.encoder.parts[0])
    alone = embed(result.images, load_encoder(result.encoder.parts[0]), Path("of-one"))
    assert torch.equal(seen.take(slice(None)), alone.features[[list(alone.ids).index(name) for name in result.ids]])
    assert main(["cluster", "two", "-k", "4", "--backbone.name", BACKBONE, "--out", "alone"]) == 0
    assert clusters_of("alone/assignments.csv").keys() == clusters_of("two/assignments.csv").keys()
    assert main(["update", "two"]) == 0  # what could not be taken then can be now
    assert len(table("two/assignments.csv")) == 4 * EACH
    assert main(["predict", "two", "photos", "--out", "same.csv"]) == 0
    assert clusters_of("same.csv") == clusters_of("two/assignments.csv")


@pytest.mark.slow
def test_text_and_classes_are_those_of_the_network_that_has_them(files, tmp_path):
    name = save_clip(new_clip(tmp_path / "clip"), tmp_path / "clip")
    names = ["--backbone.name", f"{BACKBONE},{name}", "--backbone.weights", f"{files[BACKBONE]},"]
    assert main(["cluster", "photos", "-k", "4", "--out", "two", *names]) == 0
    assert main(["cluster", "two", "-k", "4", "--backbone.name", name, "--out", "alone"]) == 0
    both, alone = (Result.load(Path(each)) for each in ("two", "alone"))
    found, expected = search_text(both, "a red square", 9), search_text(alone, "a red square", 9)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    words = suggest_names(both, ["red", "green", "blue", "grey"])
    assert len(words) == 4
    assert main(["find", "two", "a red square", "-n", "2"]) == 0


@pytest.mark.slow
def test_names_come_from_the_first_network_with_a_classifier(files, tmp_path):
    with_classes = write_weights(tmp_path / "c.safetensors", SECOND, num_classes=1000).weights
    headless = ["--backbone.name", f"{BACKBONE},{SECOND}", "--backbone.weights", f"{files[BACKBONE]},{with_classes}"]
    assert main(["cluster", "photos", "-k", "4", "--out", "two", *headless]) == 0
    assert main(["cluster", "two", "-k", "4", "--backbone.name", SECOND, "--out", "alone"]) == 0
    both, alone = (Result.load(Path(each)) for each in ("two", "alone"))
    assert same_groups(clusters_of("two/assignments.csv"), clusters_of("alone/assignments.csv"))
    assert sorted(suggest_names(both)) == sorted(suggest_names(alone))


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        (f"{BACKBONE},{BACKBONE}", None, f"lists {BACKBONE} twice: name it once"),
        (f"{BACKBONE},,{SECOND}", None, "has an empty name"),
        (f"{BACKBONE},", None, "has an empty name"),
        ("", None, "has an empty name"),
        (f"{BACKBONE},no_such_network", f"{{{BACKBONE}}},", "no backbone named 'no_such_network'"),
        (f"{BACKBONE},{SECOND}", f"{{{BACKBONE}}}", "--backbone.weights lists 1 and --backbone.name 2"),
        (BACKBONE, f"{{{BACKBONE}}},{{{SECOND}}}", "there is no weights file"),
        (f"{BACKBONE},{SECOND}", f"{{{BACKBONE}}},gone.safetensors", "there is no weights file"),
        (f"{BACKBONE},{SECOND}", f"{{{BACKBONE}}},", f"the pretrained weights of {SECOND}"),
        (f"{BACKBONE},{SECOND}", f"{{{SECOND}}},{{{BACKBONE}}}", f"do not fit {BACKBONE}"),
        (f"{BACKBONE},{BACKBONE}", f"{{{BACKBONE}}},copy.safetensors", "are one network: name it once"),
    ],
)
def test_lists_that_cannot_be_are_refused_before_an_image_is_read(names, given, said, files, capsys, embedded):
    shutil.copy(files[BACKBONE], "copy.safetensors")
    weights = [] if given is None else ["--backbone.weights", given.format(**files)]
    assert main(["cluster", "photos", "-k", "4", "--out", "out", "--backbone.name", names, *weights]) == 2
    assert said in complaint(capsys)
    assert not Path("out").exists()
    assert not [count for count in embedded.values() if count > 1]


def test_features_that_were_given_take_no_networks(capsys, files):
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 4)))
    assert main(["cluster", "x.npy", "-k", "2", *flags(files, BACKBONE, SECOND)]) == 2
    assert "has features already" in complaint(capsys)
    assert main(["cluster", "x.npy", "-k", "2", "--out", "rows"]) == 0
    capsys.readouterr()
    assert main(["cluster", "rows", "-k", "2", "--out", "other", *flags(files, BACKBONE, SECOND)]) == 2
    assert "has features already" in complaint(capsys)


def test_what_is_missing_is_named(two, capsys):
    (two / "networks/joining.safetensors").unlink()
    assert main(["predict", "two", "photos", "--out", "p.csv"]) == 2
    assert "joining.safetensors is gone" in complaint(capsys)
    shutil.rmtree(two / "networks")
    assert main(["cluster", "two", "-k", "4", "--backbone.name", SECOND, "--out", "alone"]) == 2
    assert "are gone from" in complaint(capsys)
    assert main(["report", "two"]) == 0
    assert main(["sort", "two", "--copy", "sorted"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "inputs"), [((SECOND, THIRD), ["images"]), ((BACKBONE, SECOND, THIRD), ["images", "images_2"])]
)
def test_the_graph_has_all_networks(files, names, inputs):
    assert main(["cluster", "photos", "-k", "4", "--out", "several", *flags(files, *names)]) == 0
    assert main(["export", "several", "several.onnx"]) == 0
    result = Result.load(Path("several"))
    session = onnxruntime.InferenceSession("several.onnx", providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == inputs
    encoders = [load_encoder(spec) for spec in result.encoder.parts]
    blobs = [Path(f"photos/{name}").read_bytes() for name in result.ids]
    images = [torch.from_numpy(np.stack([each.prepare(blob) for blob in blobs])).float() / 255 for each in encoders]
    given = {name: each.numpy() for name, each in zip(inputs, images, strict=False)}
    cluster, features = session.run(["cluster", "features"], given)
    joining = Joining.load(Path("several/networks"), result.encoder)
    each = [encoder.module.cpu()(x) for encoder, x in zip(encoders, images, strict=True)]
    np.testing.assert_allclose(features, joining.join(each), atol=1e-3)  # in float32, unlike those that are kept
    assert cluster.tolist() == result.labels.tolist()
    about = session.get_modelmeta().custom_metadata_map
    ways = [about["shoal.interpolation"], *([about["shoal.images_2.interpolation"]] if len(inputs) > 1 else [])]
    assert ways == ([encoders[0].preparing.about["interpolation"], "bicubic"])[: len(inputs)]
    assert about["shoal.size"] == "160 x 160"


@pytest.mark.slow
def test_networks_of_different_sizes_have_an_input_each(files, tmp_path):
    name = save_clip(new_clip(tmp_path / "clip"), tmp_path / "clip")
    names = ["--backbone.name", f"{SECOND},{name}", "--backbone.weights", f"{files[SECOND]},"]
    assert main(["cluster", "photos", "-k", "4", "--out", "two", *names]) == 0
    assert main(["export", "two", "two.onnx"]) == 0
    session = onnxruntime.InferenceSession("two.onnx", providers=["CPUExecutionProvider"])
    assert {each.name: each.shape[2:] for each in session.get_inputs()} == {"images": [160, 160], "images_2": [32, 32]}
    about = session.get_modelmeta().custom_metadata_map
    assert (about["shoal.size"], about["shoal.images_2.size"]) == ("160 x 160", "32 x 32")


def test_everything_else_takes_such_a_result(two):
    shutil.copy("photos/red-0.png", "photos/again.png")
    assert main(["update", "two"]) == 0
    assert {row["id"] for row in table(two / "duplicates.csv")} >= {"again.png", "red-0.png"}
    assert main(["ask", "two", "-n", "4", "--out", "questions.csv"]) == 0
    assert main(["evaluate", "two"]) == 0
    assert main(["report", "two"]) == 0
    assert f"--backbone.name {BACKBONE},{SECOND}" in (two / "report.html").read_text()
    assert f"name: {BACKBONE},{SECOND}" in (two / "config.yaml").read_text()


def test_folders_of_one_network_are_written_as_before(template):
    header = json.loads((template / "clusters/features/header.json").read_text())
    assert header["format"] == 2
    assert set(header["spec"]) == {"kind", "name", "weights", "digest"}


def test_joint_folders_say_that_they_are_new(two):
    header = json.loads((two / "features/header.json").read_text())
    assert header["format"] == 3
    assert [part["name"] for part in header["spec"]["parts"]] == [BACKBONE, SECOND]
