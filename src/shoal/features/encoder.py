"""From an image file to the pixels that a network takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from shoal.data.greys import Samples, Scale
from shoal.data.listing import Pixels
from shoal.device import Precision, autocast, compute_device, preserve_rng
from shoal.errors import UserError
from shoal.features.clip import ClipName, ClipPreparing, channels, sides
from shoal.features.inference import NetworkPreparing, SquarePreparing, TimmPreparing, fold_batch_norm
from shoal.features.weights import SMALL_SIDE, Note, file_digest, hub_file, load_weights, note_of, weights_file
from shoal.files import expand_home
from shoal.folder import ResultFolder
from shoal.methods import Method
from shoal.models.backbone import Backbone, check_timm_name, pooled_width
from shoal.training.trained import Trained

DEFAULT_BACKBONE = "vit_small_patch14_dinov2.lvd142m"
"""The network that is taken if nobody asks for another: docs/embedding.md says why."""

_DINOV2_SIDE = 224
"""DINOv2 learns at 224 px and is evaluated there (arXiv 2304.07193, sections 4 and 7); timm's 518 px, of its last
iterations, are five times as many patches."""


@dataclass(frozen=True)
class EncoderSpec:
    """All that is needed to build the same encoder again."""

    kind: Literal["timm", "run", "open_clip", "joined"]
    name: str
    """timm's name of the model, the path of a finished run, or open_clip's name behind ``open_clip:``; of joined
    networks all names, with commas between them."""
    weights: str = ""
    """A .safetensors file; empty for the published weights, the run's own, or joined networks."""
    digest: str = ""
    """Of the weights, so that others under the same name are told apart; empty: any will do."""
    parts: tuple[EncoderSpec, ...] = ()
    """Of joined networks, each of them (``features.joining``)."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """What ``as_values`` gave, read from JSON.

        Raises:
            TypeError: these are other values.
        """
        return cls(**{**values, "parts": tuple(cls.from_values(part) for part in values.get("parts", ()))})

    def as_values(self) -> dict[str, Any]:
        """What JSON can hold; of a single network what earlier versions read, too."""
        values = asdict(self)
        if not self.parts:
            del values["parts"]
        return values | ({"parts": [part.as_values() for part in self.parts]} if self.parts else {})

    @property
    def networks(self) -> tuple[EncoderSpec, ...]:
        """The networks that take part: the joined ones, or this one."""
        return self.parts or (self,)

    @property
    def is_trained_here(self) -> bool:
        """Whether a run of ``shoal train`` takes part, which brings the images of a cluster close together."""
        return any(part.kind == "run" for part in self.networks)

    def is_same_as(self, other: EncoderSpec) -> bool:
        """Whether both make the same features; a run or a file of weights may have moved."""
        names = [each.name if each.kind != "run" else "" for each in (self, other)]
        return (self.kind, names[0], self.digest) == (other.kind, names[1], other.digest)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network and the way images are made ready for it. ``load_encoder`` builds it.

    ``module`` is the plain network in float32: images (b, 3, h, w) in [0, 1] in, features (b, n_features) out.
    ``embed`` gives its features as fast as the device can, in ``precision``.
    """

    spec: EncoderSpec
    module: nn.Module
    n_features: int
    input_size: tuple[int, int]
    """Height and width in pixels."""
    device: torch.device
    precision: Precision
    preparing: NetworkPreparing
    fast: nn.Module
    """The same network for use, its batch-norms folded."""

    def prepare(self, data: bytes | Pixels | Samples, scale: Scale | None = None) -> UInt8[np.ndarray, "3 h w"]:
        """Decode, resize and crop an image; safe to call from several threads.

        Raises:
            UnreadableError: it cannot be decoded.
        """
        return self.preparing(data, scale)

    def embed(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Compute features of prepared images, float32 on the CPU."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            images = pixels.to(self.device).to(torch.float32, memory_format=torch.channels_last).div_(255)
            features: Tensor = self.fast(images)
        return features.to("cpu", torch.float32, copy=True)  # a plain tensor, which may take part in anything


def load_encoder(spec: EncoderSpec, device: torch.device | None = None) -> Encoder:
    """Build an encoder with its weights; its ``spec`` names them all: absolute paths and the digest.

    Weights are never random: a file of safetensors, published ones from the hub or its cache, or a run's.

    Args:
        spec: which network.
        device: where it computes; by default the GPU when there is one.

    Raises:
        UserError: there is no such model or run, its weights are missing, cannot be fetched or do not fit, or they
            are not those of ``spec.digest``.
    """
    device = device or compute_device()
    return {"run": _run, "timm": _timm, "open_clip": _open_clip}[spec.kind](spec, device)


def _timm(spec: EncoderSpec, device: torch.device) -> Encoder:
    from timm.data.config import resolve_data_config

    check_timm_name(spec.name)
    network = timm_network(spec.name, device)
    config = network.pretrained_cfg
    given = expand_home(spec.weights).absolute()
    file = weights_file(given, used=spec.digest != "") if spec.weights else hub_file(spec.name, config)
    settled = _settled(replace(spec, weights=str(file) if spec.weights else ""), file)
    stem, note = load_weights(network, file, config), note_of(file) or Note(spec.name)
    data = resolve_data_config(_sized(spec.name), model=network)  # type: ignore[no-untyped-call]
    size = note.size or (data["input_size"][1:] if stem == "native" else (SMALL_SIDE, SMALL_SIDE))
    preparing = TimmPreparing(data) if stem == "native" and note.size is None else SquarePreparing(size)
    network.to(device)
    n_features = pooled_width(network, spec.name, size)
    module = Backbone(network, n_features, note.mean or data["mean"], note.std or data["std"]).to(device).eval()
    return _finished(settled, module, n_features, size, device, "auto", preparing)


def _open_clip(spec: EncoderSpec, device: torch.device) -> Encoder:
    settled, model, _ = clip_model(spec)
    config = model.visual.preprocess_cfg
    size = sides(config)
    network: nn.Module = model.visual.to(device)
    n_features = pooled_width(network, spec.name, size)
    mean, std = channels(config, "mean"), channels(config, "std")
    module = Backbone(network, n_features, mean, std).to(device).eval()
    return _finished(settled, module, n_features, size, device, "auto", ClipPreparing(config))


def clip_model(spec: EncoderSpec) -> tuple[EncoderSpec, Any, ClipName]:
    """Both towers of a network of open_clip, on the CPU, with the spec that names their weights.

    Raises:
        UserError: as ``load_encoder``.
    """
    given = expand_home(spec.weights).absolute() if spec.weights else None
    name = ClipName.parse(spec.name, own_weights=given is not None)
    file = name.weights(given, used=spec.digest != "")
    settled = _settled(replace(spec, weights="" if given is None else str(given)), file)
    with preserve_rng(torch.device("cpu")):
        return settled, name.build(file), name


def timm_network(name: str, device: torch.device, num_classes: int = 0) -> Any:
    """A network of timm with random weights, for images of the size that shoal embeds them at."""
    import timm

    with preserve_rng(device):
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **_sized(name))


def _sized(name: str) -> dict[str, Any]:
    """The size of images where it is not timm's."""
    return {"img_size": _DINOV2_SIDE} if "dinov2" in name else {}


def _run(spec: EncoderSpec, device: torch.device) -> Encoder:
    if spec.weights:
        raise UserError(f"the run {spec.name} has weights of its own: leave out --backbone.weights.")
    path = expand_home(spec.name).absolute()
    trained = Trained.load(path)
    settled = _settled(replace(spec, name=str(path)), ResultFolder(path).model)
    module = _Embedding(trained.method).to(device).eval()
    precision = trained.config.precision
    n_features = trained.centers.shape[1]
    return _finished(settled, module, n_features, trained.size, device, precision, SquarePreparing(trained.size))


def _settled(spec: EncoderSpec, file: Path) -> EncoderSpec:
    digest = file_digest(file)
    if spec.digest not in ("", digest):
        raise UserError(
            f"{file} holds different weights of {spec.name} from those used before: restore them, or embed the images "
            "again."
        )
    return replace(spec, digest=digest)


def _finished(
    spec: EncoderSpec,
    module: nn.Module,
    n_features: int,
    size: tuple[int, int],
    device: torch.device,
    precision: Precision,
    preparing: NetworkPreparing,
) -> Encoder:
    """The encoder of a network that has been seen to make a vector of an image."""
    module.requires_grad_(requires_grad=False)
    fast = module
    if spec.kind != "run":  # that of a run computes as it did in training, so that its images keep their clusters
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
        fast = fold_batch_norm(module, image).to(memory_format=torch.channels_last)
    return Encoder(spec, module, n_features, (size[0], size[1]), device, precision, preparing, fast)


class _Embedding(nn.Module):
    """A trained method as a network: what it clusters."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features at unit length."""
        return self.method.embed(images)
