"""A run that starts from weights: which ones, what stays frozen, and what learns slowly."""

import contextlib
import dataclasses
import re

import pytest
import timm
import torch
from tests.runs import new_run, reopened, tiny_config, tiny_images, tiny_recipe

from shoal.cli.main import main
from shoal.config import load_recipe
from shoal.errors import UserError
from shoal.features.start import start_from_weights
from shoal.features.weights import Note
from shoal.methods import METHODS, build
from shoal.models import Backbone, BackboneConfig, build_backbone
from shoal.models.backbone import stages_of
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.tensors import write_tensors
from shoal.training import fit
from shoal.training.loop import pixels_to_come, train_step


def with_backbone(config, **changes):
    return dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **changes))


def backbones(run):
    return [part for part in run.method.modules() if isinstance(part, Backbone)]


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, other, names=None):
    return all(torch.equal(one[name], other[name]) for name in names or one if "num_batches" not in name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("runs") / "first"
    workflow.train(new_run(path, tiny_config(epochs=1)), Progress())
    return path


@pytest.mark.parametrize("method", ["propos", "moco", "cc", "simsiam"])
def test_every_backbone_of_a_method_starts_from_an_earlier_run(method, finished, tmp_path):
    """The target network as well: it would otherwise pull the network to random weights."""
    config = dataclasses.replace(tiny_config(), method=METHODS[method].config_class())
    if method == "moco":
        config = dataclasses.replace(config, method=METHODS[method].config_class(queue=64))
    run = new_run(tmp_path / "run", with_backbone(config, weights=str(finished)))
    trained = workflow.Trained.load(finished).method.encoder[0].network.state_dict()
    assert all(same(state(each.network), trained) for each in backbones(run))
    assert len(backbones(run)) == (2 if method in ("propos", "moco") else 1)


def test_frozen_stages_stay_bit_for_bit_and_the_rest_learns(finished, tmp_path):
    run = new_run(tmp_path / "run", with_backbone(tiny_config(), weights=str(finished), freeze=2))
    network = backbones(run)[0].network
    frozen = [name for names in network.stages[:2] for name in names]
    before = [state(each.network) for each in backbones(run)]
    fit(run, Progress())
    held = [name for name in before[0] if any(name.startswith(f.rpartition(".")[0] + ".") for f in frozen)]
    assert {name.rpartition(".")[2] for name in held} == {"weight", "bias", "running_mean", "running_var"} | {
        "num_batches_tracked"
    }
    for old, new in zip(before, (state(each.network) for each in backbones(run)), strict=True):
        assert same(old, new, held)
        assert not any(torch.equal(old[name], new[name]) for name in old if name not in held)
    known = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in known for name, p in network.named_parameters() if name in frozen)


def test_a_frozen_run_resumes_without_its_weights(finished, tmp_path):
    spec = tmp_path / "gone"
    finished_copy = workflow.Trained.load(finished)
    write_tensors(tmp_path / "w.safetensors", {}, finished_copy.method.encoder[0].network.state_dict())
    config = with_backbone(tiny_config(), weights=str(tmp_path / "w.safetensors"), freeze=1)
    run = new_run(tmp_path / "run", config)
    run.save()
    (tmp_path / "w.safetensors").rename(spec)
    again = reopened(tmp_path / "run")
    assert same(state(again.method), state(run.method))


def test_the_backbone_learns_at_its_own_rate(tmp_path):
    config = tiny_config()
    slow = dataclasses.replace(config, optim=dataclasses.replace(config.optim, backbone_lr_scale=0.25))
    runs = [new_run(tmp_path / str(i), each) for i, each in enumerate((config, slow))]
    before = [state(backbones(run)[0].network) for run in runs]
    for run in runs:
        run.state.order = torch.arange(40)
        train_step(run, pixels_to_come(run))
    moved = [
        state(backbones(run)[0].network)["layers.0.weight"] - old["layers.0.weight"]
        for run, old in zip(runs, before, strict=True)
    ]
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-3, atol=1e-7)
    rest = [group for group in runs[1].optimizer.param_groups if group.get("lr_scale", 1) != 0.25]
    assert sum(len(group["params"]) for group in rest) == sum(1 for p in runs[1].method.predictor.parameters()) + 6


def test_published_weights_of_timm_are_taken(tmp_path, monkeypatch):
    network = timm.create_model("resnet10t", num_classes=0)
    write_tensors(tmp_path / "hub.safetensors", {}, network.state_dict())
    monkeypatch.setattr("shoal.features.start.hub_file", lambda _name, _config: tmp_path / "hub.safetensors")
    config = BackboneConfig("resnet10t", weights="timm")
    method = build(METHODS["simsiam"].config_class(dim=8, bottleneck=4), config, 3, torch.Generator())
    assert "published weights of resnet10t" in start_from_weights(method, config)
    assert same(network.state_dict(), method.encoder[0].network.state_dict())


def test_other_channel_means_are_told(tmp_path):
    network = build_backbone(BackboneConfig("small", width=4)).network
    note = dataclasses.asdict(Note("small", mean=(0.5, 0.5, 0.5)))
    write_tensors(tmp_path / "w.safetensors", note, network.state_dict())
    config = BackboneConfig("small", width=4, weights=str(tmp_path / "w.safetensors"))
    method = build(METHODS["simsiam"].config_class(dim=8, bottleneck=4), config, 3, torch.Generator())
    assert "channel means of 0.5 0.5 0.5: --backbone.mean" in start_from_weights(method, config)


def small_stem(path):
    network = build_backbone(BackboneConfig("resnet18", stem="cifar")).network
    write_tensors(path / "w.safetensors", {}, network.state_dict())
    return {"name": "resnet18", "weights": str(path / "w.safetensors")}


def other_width(path):
    write_tensors(path / "w.safetensors", {}, build_backbone(BackboneConfig("small", width=8)).network.state_dict())
    return {"weights": str(path / "w.safetensors")}


def noted(path, name, stem, **changes):
    note = dataclasses.asdict(Note(name, stem, **changes))
    write_tensors(path / "w.safetensors", note, build_backbone(BackboneConfig("small", width=4)).network.state_dict())
    return {"weights": str(path / "w.safetensors")}


def damaged(path):
    (path / "w.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    return {"weights": str(path / "w.safetensors")}


def pickled(path):
    torch.save({}, path / "w.pth")
    return {"weights": str(path / "w.pth")}


REFUSED = {
    "small stem": (small_stem, "made for another stem: give --backbone.stem cifar"),
    "another network": (
        lambda path: noted(path, "resnet18.tv_in1k", "cifar"),
        "are of resnet18.tv_in1k, .*: give --backbone.name resnet18.tv_in1k --backbone.stem cifar",
    ),
    "a note that is damaged": (lambda path: noted(path, "small", "round"), "says of its weights is damaged"),
    "no deviation": (lambda path: noted(path, "small", "native", std=(0, 1, 1)), "says of its weights is damaged"),
    "other width": (
        other_width,
        r"do not fit small: .*layers.0.weight has shape \(8, 3, 3, 3\) instead of \(4, 3, 3, 3\)",
    ),
    "damaged": (damaged, "cannot read the weights"),
    "pickle": (pickled, "'shoal convert .*w.pth'"),
    "nothing there": (lambda path: {"weights": str(path / "none.safetensors")}, "there is no weights file"),
    "a folder": (lambda path: {"weights": str(path)}, "holds no finished training run"),
    "small of timm": (lambda _: {"weights": "timm"}, "timm has no weights of the small net"),
    "frozen random weights": (lambda _: {"freeze": 1}, "would keep random weights: give --backbone.weights"),
    "more stages than there are": (lambda _: {"freeze": 4, "weights": "timm"}, "the backbone has 3 stages"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_to_start_from_are_refused_in_a_sentence(case, tmp_path):
    make, sentence = REFUSED[case]
    config = with_backbone(tiny_config(), **make(tmp_path))
    with pytest.raises(UserError, match=sentence) as error:
        new_run(tmp_path / "run", config)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_without_an_end_gives_no_weights(tmp_path):
    new_run(tmp_path / "first").save()
    with pytest.raises(UserError, match="has not been trained to its end"):
        new_run(tmp_path / "run", with_backbone(tiny_config(), weights=str(tmp_path / "first")))


@pytest.mark.parametrize(
    ("name", "stem", "first"),
    [
        ("resnet18", "conv1.weight", "layer1.0.conv1.weight"),
        ("test_vit", "cls_token", "blocks.0.norm1.weight"),
        ("test_convnext", "stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
        ("test_efficientnet", "conv_stem.weight", "blocks.0.0.conv.weight"),
    ],
)
def test_stages_are_those_of_timm(name, stem, first):
    with torch.device("meta"):
        stages = stages_of(timm.create_model(name, num_classes=0))
    assert (stem in stages[0], first in stages[1]) == (True, True)


@pytest.mark.slow
def test_the_command_starts_from_a_run_and_says_so(finished, tmp_path, capsys):
    args = ["train", str(tiny_recipe(tmp_path)), "--max-steps", "1", "--data.size", "8", "--backbone.weights"]
    out = ["--out", str(tmp_path / "run"), "--optim.backbone-lr-scale", "0.1", "--backbone.freeze", "1"]
    assert main([*args, str(finished), *out]) == 0
    assert re.search(r"weights +the weights of .*first, its stem and first stage frozen", capsys.readouterr().err)
    config = load_recipe(str(tmp_path / "run" / "config.yaml"))
    assert (config.backbone.freeze, config.optim.backbone_lr_scale) == (1, 0.1)
    assert main([*args, str(tmp_path / "nowhere"), "--out", str(tmp_path / "none")]) == 2
    capsys.readouterr()
    assert main([*args, str(finished), "--backbone.freeze", "1", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "weights      the weights of" in said
    assert re.search(r"parameters .* to learn, 116 frozen, .* in the target network", said)
    assert main([*args, str(tmp_path / "nowhere"), "--dry-run"]) == 2


def test_images_of_another_size_are_no_matter(finished, tmp_path):
    images = tiny_images()
    larger = dataclasses.replace(images, pixels=images.pixels.repeat_interleave(2, 2).repeat_interleave(2, 3))
    run = new_run(tmp_path / "run", with_backbone(tiny_config(), weights=str(finished)), larger)
    assert run.images.pixels.shape[2:] == (16, 16)


@pytest.mark.parametrize("holds", [False, True])
def test_a_folder_that_another_process_took_while_images_were_read_stays_its_own(tmp_path, monkeypatch, holds):
    """It may still be writing: then it holds the folder."""
    begin, path, held = workflow._begin, tmp_path / "run", contextlib.ExitStack()

    def slowly(run, progress):
        monkeypatch.setattr(workflow, "_begin", begin)
        new_run(path, tiny_config(seed=7))
        if holds:
            held.enter_context(run.folder.alone())
        begin(run, progress)

    monkeypatch.setattr(workflow, "_begin", slowly)
    with held, pytest.raises(UserError, match="another process is changing" if holds else "already holds a run"):
        new_run(path, tiny_config(seed=1))
    assert load_recipe(str(path / "config.yaml")).seed == 7
