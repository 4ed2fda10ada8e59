"""Weights that a training run starts from: published ones, a converted checkpoint, or those of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from shoal.errors import UserError
from shoal.features.layouts import read_as
from shoal.features.shared import is_shared, local_weights
from shoal.features.weights import Note, fill, hub_file, note_of, read_weights, wanted_by, weights_file
from shoal.files import real
from shoal.folder import ResultFolder
from shoal.methods import Method
from shoal.models import Backbone, BackboneConfig, build_backbone
from shoal.models.backbone import Channels
from shoal.training.trained import Trained

PUBLISHED = "timm"
"""As a path of weights: those that timm has of the backbone's model."""

_ALIKE = 0.02  # normalisations that differ by no more are taken for the same


@dataclass(frozen=True, eq=False)
class Start:
    """Tensors to start from, and what is known of them."""

    tensors: Mapping[str, Tensor]
    origin: str
    """What they are, for messages."""
    note: Note | None = None
    mean: Channels | None = None
    """Of the images that they were trained on; None: unknown."""


def resolve_weights(spec: str) -> str:
    """The same weights wherever the run is resumed: an absolute path, unless they are published ones."""
    return spec if spec in ("", PUBLISHED) or is_shared(spec) else str(real(spec))


def start_from_weights(method: Method, config: BackboneConfig) -> str:
    """Give all backbones of a method, its target network's too, the weights that its config names.

    Returns:
        What it starts from, in a line; empty for random weights.

    Raises:
        UserError: there are no such weights, they cannot be fetched or read, or they do not fit the backbone.
    """
    if not config.weights:
        return ""
    return _start([part for part in method.modules() if isinstance(part, Backbone)], config)


def check_weights(config: BackboneConfig) -> None:
    """Raise a UserError for a backbone that does not exist, or weights that cannot be read or do not fit it."""
    backbone = build_backbone(config)
    if config.weights:
        _start([backbone], config)


def _start(backbones: Sequence[Backbone], config: BackboneConfig) -> str:
    """Give backbones the weights that their config names; what these are, in a line."""
    start = _read(config, backbones[0])
    _check_architecture(start, config)
    for backbone in backbones:
        network: Any = backbone.network
        found = read_as(start.tensors, wanted_by(network))
        theirs = start.note.stem if start.note else found.stem_for(network, config.stem)
        padded = start.note is None and (theirs, config.stem) == ("cifar", "cifar-pad2")  # nobody knows
        if theirs != config.stem and not padded:
            raise UserError(f"{start.origin} are made for another stem: give --backbone.stem {theirs}.")
        fill(network, found, {**getattr(network, "pretrained_cfg", {}), "architecture": config.name}, start.origin)
    stages = "first stage" if config.freeze == 1 else f"first {config.freeze} stages"
    frozen = f", its stem and {stages} frozen" if config.freeze else ""
    return f"weights      {start.origin}{frozen}{_other_normalisation(start.mean, config.mean)}"


def _check_architecture(start: Start, config: BackboneConfig) -> None:
    """Raise a UserError when the weights say that they are of another network, whoever has trained it."""
    if start.note is None or start.note.architecture.partition(".")[0] == config.name.partition(".")[0]:
        return
    stem = "" if start.note.stem == config.stem else f" --backbone.stem {start.note.stem}"
    raise UserError(
        f"{start.origin} are of {start.note.architecture}, and the backbone is {config.name}: give --backbone.name "
        f"{start.note.architecture}{stem}."
    )


def _other_normalisation(theirs: Channels | None, ours: Channels) -> str:
    if theirs is None or all(abs(a - b) <= _ALIKE for a, b in zip(theirs, ours, strict=True)):
        return ""
    return f"; they were trained with channel means of {' '.join(f'{value:g}' for value in theirs)}: --backbone.mean"


def _read(config: BackboneConfig, backbone: Backbone) -> Start:
    spec = config.weights
    network: Any = backbone.network
    if spec == PUBLISHED:
        if config.name == "small":
            raise UserError("timm has no weights of the small net: give another --backbone.name, or no weights.")
        about = network.pretrained_cfg
        file = hub_file(config.name, about)
        return Start(read_weights(file), f"the published weights of {config.name}", mean=tuple(about["mean"]))
    path = local_weights(spec) if is_shared(spec) else real(spec)
    if ResultFolder(path).is_run:
        trained = Trained.load(path)
        theirs, name = trained.method.encoder[0], trained.config.backbone.name
        assert isinstance(theirs, Backbone)
        note = Note(name, trained.config.backbone.stem)
        origin = (
            f"the weights of {spec}, whose backbone is {name}," if name != config.name else f"the weights of {spec}"
        )
        return Start(theirs.network.state_dict(), origin, note, trained.config.backbone.mean)
    if path.is_dir():
        raise UserError(f"{spec} holds no finished training run: give a run, a .safetensors file, or timm.")
    file = weights_file(path)
    found = note_of(file)
    return Start(read_weights(file), f"the weights {spec}", found, found.mean if found else None)
