"""A run's backbone for others: plain timm makes the same features, by the lines of the page and of the card."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.runs import new_run, tiny_config, tiny_images

import shoal
from shoal.cli.main import main
from shoal.errors import UserError
from shoal.features import EncoderSpec, load_encoder
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.results.chosen import chosen_networks
from shoal.training.trained import Trained

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images():
    """20 images of 32 px."""
    small = tiny_images(20)
    return dataclasses.replace(small, pixels=small.pixels.repeat_interleave(4, 2).repeat_interleave(4, 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """A finished run of a ResNet of timm."""
    path = tmp_path_factory.mktemp("runs") / "first"
    config = tiny_config(max_steps=1)
    backbone = dataclasses.replace(config.backbone, name="resnet18", stem="cifar")
    data = dataclasses.replace(config.data, path="/home/somebody/secret/photos")
    workflow.train(new_run(path, dataclasses.replace(config, backbone=backbone, data=data), images), Progress())
    return path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("shared") / "backbone.safetensors"
    assert main(["export", str(run), str(file)]) == 0
    return file


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def lines_of(place, exported):
    text = (PAGE if place == "page" else exported.with_name("README.md")).read_text()
    (block,) = [block for block in blocks(text) if "load_file" in block]
    return block


@pytest.mark.parametrize("place", ["page", "card"])
def test_the_lines_give_the_features_of_the_run(place, exported, run, images, monkeypatch):
    monkeypatch.chdir(exported.parent)
    Image.fromarray(images.pixels[3].permute(1, 2, 0).numpy()).save("photo.png")
    names = {}
    exec(lines_of(place, exported), names)
    found = shoal.ProPos.load(run).features(images.pixels[3:4])
    scale = np.abs(found).max()
    np.testing.assert_allclose(names["features"].numpy() / scale, found / scale, rtol=0, atol=1e-5)
    Path("photo.png").unlink()


def test_the_card_of_the_page_and_of_the_run_say_the_same_lines(exported):
    assert len(lines_of("page", exported).splitlines()) <= 14
    assert lines_of("page", exported) == lines_of("card", exported)


def test_the_card_is_one_that_the_hub_reads(exported):
    _, head, body = exported.with_name("README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["library_name"] == "timm"
    assert "license" not in about  # none is better than one that the hub does not know
    assert "None is chosen yet" in body
    for part in ("## Recipe", "method:", "## Data", "photos", "## Figures", "| acc |", "## Licence"):
        assert part in body
    assert "secret" not in body


@pytest.fixture(scope="module")
def plain(tmp_path_factory, images):
    """A finished run of a network as timm has it."""
    path = tmp_path_factory.mktemp("plain") / "run"
    config = tiny_config(max_steps=1)
    backbone = dataclasses.replace(config.backbone, name="test_resnet", mean=(0.4, 0.5, 0.6))
    workflow.train(new_run(path, dataclasses.replace(config, backbone=backbone), images), Progress())
    return path


@pytest.mark.parametrize("name", ["backbone.safetensors", "model.safetensors"])
def test_timm_builds_the_network_from_the_folder_alone(plain, name, images, tmp_path, capsys):
    assert main(["export", str(plain), str(tmp_path / name), "--licence", "cc-by-4.0"]) == 0
    said = capsys.readouterr().out
    assert f"for timm     {tmp_path / 'config.json'}, with which timm.create_model('hf-hub:OWNER/NAME'" in said
    assert "licence      cc-by-4.0" in said
    card = (tmp_path / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert 'timm.create_model("hf-hub:OWNER/NAME", pretrained=True)' in card
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    prepared = timm.data.resolve_model_data_config(network)
    assert [*prepared["input_size"], *prepared["mean"], prepared["crop_pct"]] == [3, 32, 32, 0.4, 0.5, 0.6, 1.0]
    transform = timm.data.create_transform(**prepared)
    views = [transform(Image.fromarray(each.permute(1, 2, 0).numpy())) for each in images.pixels[:5]]
    with torch.no_grad():
        found = network(torch.stack(views)).numpy()
    expected = shoal.ProPos.load(plain).features(images.pixels[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["pretrained_cfg"]["hf_hub_filename"] == name  # by which timm finds the file on the hub
    assert (about["architecture"], about["num_features"]) == ("test_resnet", expected.shape[1])


def test_where_timm_has_no_such_network_or_there_is_a_config_nothing_is_claimed(run, plain, exported, tmp_path, capsys):
    assert not exported.with_name("config.json").exists()
    assert "hf-hub" not in exported.with_name("README.md").read_text()
    assert main(["export", str(run), str(tmp_path / "a" / "b.safetensors")]) == 0
    assert "timm has no network with this stem" in capsys.readouterr().out
    (tmp_path / "config.json").write_text("mine")
    assert main(["export", str(plain), str(tmp_path / "b.safetensors")]) == 0
    assert "there is a config.json of something else" in capsys.readouterr().out
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_licence_is_one_of_the_hub(plain, tmp_path, capsys):
    file = tmp_path / "b.safetensors"
    for name, hint in [
        ("CC-BY", "did you mean 'cc-by-"),
        ("mine", "it has apache-2.0"),
        ("MIT", "did you mean 'mit'?"),
    ]:
        assert main(["export", str(plain), str(file), "--licence", name]) == 2
        assert hint in capsys.readouterr().err
    assert main(["export", str(plain), str(tmp_path / "b.onnx"), "--licence", "mit"]) == 2
    assert "give a .safetensors file, or leave it out" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_shoal_takes_what_it_has_exported(exported, run, images):
    (spec,) = chosen_networks(None, str(exported))
    encoder = load_encoder(spec)
    assert (spec.name, encoder.input_size) == ("resnet18", (32, 32))
    pixels = images.pixels.float() / 255
    trained = Trained.load(run)
    with torch.no_grad():
        torch.testing.assert_close(encoder.module(pixels), trained.method.represent(pixels), rtol=1e-5, atol=1e-5)
    own = new_run(
        exported.parent / "again",
        dataclasses.replace(
            trained.config, backbone=dataclasses.replace(trained.config.backbone, weights=str(exported))
        ),
        images,
    )
    assert torch.equal(own.method.encoder[0].network.conv1.weight, load_file(exported)["conv1.weight"])


def test_nothing_is_overwritten(exported, run, tmp_path, capsys):
    assert main(["export", str(run), str(exported)]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "README.md").write_text("mine")
    assert main(["export", str(run), str(tmp_path / "b.safetensors")]) == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert f"model card   {tmp_path / 'b.md'}" in capsys.readouterr().out


def test_what_has_no_weights_for_timm_is_refused(tmp_path, capsys):
    workflow.train(new_run(tmp_path / "small", tiny_config(max_steps=1)), Progress())
    assert main(["cluster", "digits", "-k", "3", "--out", str(tmp_path / "clusters"), "--quiet"]) == 0
    for folder, sentence in [
        ("small", "own small net"),
        ("clusters", "is not a training run"),
        ("nowhere", "no finished"),
    ]:
        assert main(["export", str(tmp_path / folder), str(tmp_path / "x.safetensors")]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "x.safetensors").exists()


class Hub:
    """Stands for ``huggingface_hub.snapshot_download``: models by name, as folders."""

    def __init__(self, monkeypatch, **models):
        import huggingface_hub

        self.models, self.reachable = models, True
        monkeypatch.setattr("shoal.data.sources.hub.check_reachable", self.check)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.download)
        self.missing = huggingface_hub.errors.RepositoryNotFoundError

    def check(self):
        if not self.reachable:
            raise OSError("no network")

    def download(self, name, *, revision, ignore_patterns, local_files_only=False):
        assert "state.safetensors" in ignore_patterns
        if name.partition("/")[2] not in self.models:
            import httpx

            raise (
                OSError
                if local_files_only
                else self.missing("404", response=httpx.Response(404, request=httpx.Request("GET", "http://x")))
            )
        return str(self.models[name.partition("/")[2]])


def test_a_shared_run_predicts_and_gives_weights(run, exported, images, tmp_path, monkeypatch, capsys):
    hub = Hub(monkeypatch, run=run, weights=exported.parent, empty=tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    for i in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(images.pixels[i].permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{i}.png")
    out = str(tmp_path / "a.csv")
    assert main(["predict", "hf://owner/run", str(tmp_path / "photos"), "--out", out]) == 0
    assert len(Path(out).read_text().splitlines()) == 4
    assert chosen_networks(None, "hf://owner/run") == (EncoderSpec("run", str(run)),)
    assert chosen_networks(None, "hf://owner/weights") == (EncoderSpec("timm", "resnet18", str(exported)),)
    config = Trained.load(run).config
    for name in ("run", "weights"):
        started = dataclasses.replace(config.backbone, weights=f"hf://owner/{name}")
        again = new_run(tmp_path / name, dataclasses.replace(config, backbone=started), images)
        assert torch.equal(again.method.encoder[0].network.conv1.weight, load_file(exported)["conv1.weight"])
        assert f"hf://owner/{name}" in (tmp_path / name / "config.yaml").read_text()
    hub.reachable = False
    assert chosen_networks(None, "hf://owner/run")[0].kind == "run"
    for spec, sentence in [
        ("hf://owner/none", "cannot reach the hub"),
        ("hf://owner/empty", "holds no finished result"),
        ("hf://owner", "is not a model of the hub"),
    ]:
        assert main(["predict", spec, str(tmp_path / "photos"), "--out", str(tmp_path / "b.csv")]) == 2
        assert sentence in capsys.readouterr().err
    hub.reachable = True
    with pytest.raises(UserError, match="the hub has no model owner/none"):
        chosen_networks(None, "hf://owner/none")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        chosen_networks(None, "hf://owner/empty")
