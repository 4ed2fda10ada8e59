"""One small network of every family that timm has: it trains, embeds and resumes, or is refused for its own reason.

The families and their networks are those of the installed timm, so that another version is tested without a change.
"""

import contextlib
import dataclasses
import functools
import logging
from functools import cache

import pytest
import timm
import torch
from tests.runs import StopAfter, new_run, reopened, same_files, tiny_config
from torch.nn.modules.module import register_module_parameter_registration_hook

from shoal.errors import UserError
from shoal.methods import SimCLRConfig
from shoal.models import BackboneConfig, build_backbone, evaluating
from shoal.models.backbone import Backbone
from shoal.progress import Progress
from shoal.training import fit
from shoal.training.run import Interrupted
from shoal.types import Images

REPRESENTATIVE = ("mobilenetv3", "vision_transformer_relpos")
"""A family that widens its pooled features, and one of fixed image size; both take seconds."""

MOST = 5e7
"""Parameters of a network that a test can train within a minute; of a larger one only the first block is tried."""

SIDE = 32


class _TooLargeError(Exception):
    """A network with more parameters than the smallest so far."""


@contextlib.contextmanager
def stopping_beyond(most):
    """Networks of more parameters are given up while they are built; yields the number so far, in a list."""
    counts = [0]

    def count(_module, _name, parameter):
        counts[0] += parameter.numel() if parameter is not None else 0
        if counts[0] > most:
            raise _TooLargeError

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            yield counts
    finally:
        hook.remove()


@cache
def smallest(family):
    """Name and number of parameters of the smallest network of a family; nothing is allocated."""
    found, least = "", float("inf")
    # Encoders of language models make a vector per patch; the network of the same name pools them.
    names = [name for name in timm.list_models(module=family) if not name.endswith("_enc")]
    # Those made for tests come first, so that the others are given up early.
    for name in sorted(names, key=lambda name: (not name.startswith("test_"), len(name))):
        with contextlib.suppress(_TooLargeError), stopping_beyond(least) as counts:
            timm.create_model(name, pretrained=False, num_classes=0)
            found, least = name, counts[0]
    return found, least


def config_of(name):
    base = tiny_config(n_clusters=2, method=SimCLRConfig(dim=8))
    optim = dataclasses.replace(base.optim, batch_size=2, lr=1e-3, warmup_epochs=0)
    return dataclasses.replace(base, epochs=1, backbone=BackboneConfig(name=name), optim=optim)


def noise(side, n=4):
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.full((n,), -1), torch.ones(n, dtype=torch.bool), (), [f"{i}.png" for i in range(n)])


def started(path, name):
    """A run at a small image size or, where the network refuses it and says why, at that of the network."""
    try:
        return new_run(path / "small", config_of(name), noise(SIDE))
    except UserError as error:
        text = str(error)
    own = build_backbone(BackboneConfig(name=name)).made_for[0]
    assert text.startswith(f"the backbone {name} cannot take images of {SIDE} × {SIDE} px (")
    assert text.endswith(f": give another --data.size, such as {own}.")
    return new_run(path / "own", config_of(name), noise(own))


def trains_and_resumes(path, name):
    """Train a network for a step, stop, resume; the result is that of a run without a stop."""
    run = started(path, name)
    images = noise(run.images.pixels.shape[2])
    backbone = run.method.encoder[0]
    with evaluating(backbone):
        assert backbone(images.pixels[:2] / 255).shape == (2, backbone.n_features)
    before = [parameter.clone() for parameter in backbone.parameters()]
    with pytest.raises(Interrupted):
        fit(run, Progress(), [StopAfter(1)])
    assert any(not torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    resumed = reopened(run.folder.path, images)
    assert resumed.steps_done == 1
    fit(resumed, Progress())
    assert resumed.done
    assert resumed.features.shape == (4, 8)
    assert torch.isfinite(resumed.features).all()
    return run, resumed


@pytest.mark.parametrize("family", REPRESENTATIVE)
def test_a_family_trains_embeds_and_resumes(tmp_path, family, caplog):
    if family not in timm.list_modules():
        pytest.skip(f"this timm has no {family}")
    caplog.set_level(logging.ERROR)
    run, resumed = trains_and_resumes(tmp_path, smallest(family)[0])
    whole = new_run(tmp_path / "whole", run.config, resumed.images)
    fit(whole, Progress())
    same_files(whole.folder.path, run.folder.path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", sorted(set(timm.list_modules()) - set(REPRESENTATIVE)))
def test_every_other_family_trains_embeds_and_resumes(tmp_path, family, monkeypatch):
    name, n_parameters = smallest(family)
    if n_parameters > MOST:
        monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=1))
        try:
            timm.create_model(name, num_classes=0)
        except TypeError:
            pytest.skip(f"{name}, the smallest of its family, has {n_parameters / 1e6:.0f} million parameters")
    try:
        build_backbone(BackboneConfig(name=name))
    except UserError as error:
        pytest.skip(str(error))
    trains_and_resumes(tmp_path, name)


@pytest.mark.slow
def test_the_width_of_vgg_is_that_of_its_layers_behind_the_pooling():
    backbone = build_backbone(BackboneConfig(name="vgg11")).eval()
    assert backbone.n_features == 4096 != backbone.network.num_features
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, SIDE, SIDE)).shape == (1, 4096)


def test_finding_the_width_changes_neither_weights_nor_mode():
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name="test_resnet"))
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=0)
    assert backbone.training
    assert backbone.network.training
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(backbone.network.state_dict()[key], value, rtol=0, atol=0)


class _Odd(torch.nn.Module):
    """A network of which ``kind`` says what is odd."""

    def __init__(self, kind, config):
        super().__init__()
        self.kind, self.pretrained_cfg, self.num_features = kind, config, 8
        self.layer = torch.nn.Conv2d(3, 8, 1)

    def forward(self, x):
        if self.kind == "fails":
            raise RuntimeError("no such operator")
        return self.layer(x) if self.kind == "map" else (self.layer(x).mean((2, 3)), x)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("map", "^test_resnet does not pool its features into a vector per image: give another --backbone.name.$"),
        ("pair", "does not pool its features into a vector"),
        (
            "fails",
            r"test_resnet fails on an image of 160 × 160 px \(no such operator\): give another --backbone.name.$",
        ),
    ],
)
def test_a_network_that_makes_no_vector_is_refused_for_that(monkeypatch, kind, sentence):
    about = timm.get_pretrained_cfg("test_resnet").to_dict()
    monkeypatch.setattr(timm, "create_model", lambda *_args, **_settings: _Odd(kind, about))
    with pytest.raises(UserError, match=sentence):
        build_backbone(BackboneConfig(name="test_resnet"))


def test_a_network_of_several_sizes_is_tried_at_the_smallest(monkeypatch):
    about = timm.get_pretrained_cfg("test_resnet").to_dict() | {"min_input_size": (3, 64, 64)}
    network = timm.create_model("test_resnet", num_classes=0)
    network.pretrained_cfg = about
    monkeypatch.setattr(timm, "create_model", lambda *_args, **_settings: network)
    backbone = build_backbone(BackboneConfig(name="test_resnet"))
    assert isinstance(backbone, Backbone)
    assert backbone.made_for == (64, 64)
