"""Backbones: images in [0, 1] in, one feature vector per image out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.models.recompute import blocks_of, run_recomputed
from shoal.models.small import SmallNet

Channels = tuple[float, float, float]

COMPILER = "inductor"
"""The backend of ``torch.compile``."""


@dataclass(frozen=True)
class BackboneConfig:
    """The network under a method's heads."""

    name: str = "resnet18"
    """A timm model, or "small": a plain three-stage net for images of 8 to 64 px."""
    stem: Literal["native", "cifar"] = "native"
    """"cifar" swaps a ResNet's first layers for a 3×3 convolution of stride 1 without pooling, for small images."""
    width: Annotated[int, Gt(0)] = 32
    """Channels of the small net's first stage; the later two have twice and four times as many."""
    depth: Annotated[int, Gt(0)] = 1
    """Convolutions in each stage of the small net."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Channel means, subtracted from the image."""
    std: Channels = (0.229, 0.224, 0.225)
    """Channel standard deviations, by which the image is divided."""


class Backbone(nn.Module):
    """A network that normalises its images itself and pools its last feature map into (b, n_features).

    ``made_for`` is the height and width in pixels that the network was designed for; None where that is any.
    ``recomputes`` says whether blocks are computed again for the backward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        n_features: int,
        mean: Channels,
        std: Channels,
        made_for: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.network = network
        self.n_features = n_features
        self.made_for = made_for
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.recomputes = False
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Normalise, then the network."""
        if self._compiled and self.training:
            return self._compiled(images)
        return self._features(images)

    def _features(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        if self.recomputes and self.training and torch.is_grad_enabled():
            return run_recomputed(self.network, normalised)
        features: Tensor = self.network(normalised)
        return features

    def recompute_training(self) -> None:
        """From now on compute blocks again for the backward pass, which takes less memory and more time.

        Raises:
            UserError: the blocks of the network are not known.
        """
        if not blocks_of(self.network):
            kind = type(self.network).__name__
            raise UserError(
                f"--recompute knows the blocks of ResNets and of the small net, not of {kind}: leave it out."
            )
        self.recomputes = True

    def compile_training(self, mode: str | None = None, *, on: bool = True) -> None:
        """Compile what runs in training, at its first call, or stop doing so; features of E-steps stay uncompiled.

        Weights keep their places and names. Each batch size is compiled anew.
        """
        self._compiled = torch.compile(self._features, backend=COMPILER, mode=mode, dynamic=False) if on else None


def compiler_error(device: torch.device) -> str:
    """Why ``torch.compile`` does not work on this machine; empty where it does."""
    try:
        torch.compile(torch.neg, backend=COMPILER)(torch.zeros(2, device=device))
    except Exception as error:  # of any kind: a compiler needs many things
        return short(error)
    return ""


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone a config names, with random weights.

    Raises:
        UserError: timm knows no such model, it makes no vector of an image, or the CIFAR stem is asked for a network
            that is not a ResNet.
    """
    network: nn.Module
    made_for: tuple[int, int] | None = None
    if config.name == "small":
        small = SmallNet(config.width, config.depth)
        network, n_features = small, small.n_features
    else:
        network = _from_timm(config.name)
        made_for = native_size(network)
        n_features = pooled_width(network, config.name, made_for)
    if config.stem == "cifar":
        _use_cifar_stem(network, config.name)
    return Backbone(network, n_features, config.mean, config.std, made_for)


def native_size(network: nn.Module) -> tuple[int, int]:
    """Height and width in pixels that a timm network was made for; of several sizes the smallest."""
    about: Any = network.pretrained_cfg
    _, height, width = about.get("min_input_size") or about["input_size"]
    return height, width


def pooled_width(network: nn.Module, name: str, size: tuple[int, int]) -> int:
    """How many features a network makes of an image of this height and width, found by trying.

    timm's ``num_features`` is the width of the last feature map. Some networks (MobileNetV3, GhostNet, VGG) widen it
    after pooling.

    Args:
        network: images (b, 3, h, w) in, features (b, n_features) out.
        name: of the network, for messages.
        size: height and width in pixels.

    Raises:
        UserError: it fails, or makes something else than a vector of an image.
    """
    place = next(network.parameters()).device
    try:
        with evaluating(network):
            features = network(torch.zeros(1, 3, *size, device=place))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = size
        raise UserError(
            f"the backbone {name} fails on an image of {height} × {width} px ({short(error)}): give another "
            "--backbone.name."
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise UserError(f"{name} does not pool its features into a vector per image: give another --backbone.name.")
    return features.shape[1]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the previous mode is restored afterwards."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def short(error: Exception) -> str:
    """What a network's error says, on one line that fits into a message."""
    return " ".join(str(error).split())[:120].rstrip(".:") or type(error).__name__


def check_timm_name(name: str) -> None:
    """Check that timm has a model.

    Raises:
        UserError: there is no such model, or no such weights of it (``MODEL.WEIGHTS``).
    """
    import timm  # 1 s to import: only runs that use it pay

    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "small"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "timm.list_models() lists the names."
        raise UserError(f"there is no backbone named {name!r}: {hint}")


def _from_timm(name: str) -> nn.Module:
    import timm

    check_timm_name(name)
    return timm.create_model(name, pretrained=False, num_classes=0)


def _use_cifar_stem(network: nn.Module, name: str) -> None:
    """3×3 stride-1 first convolution and no max-pool, as SimCLR trains on CIFAR (arXiv 2002.05709, section B.9)."""
    conv = getattr(network, "conv1", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(getattr(network, "maxpool", None), nn.Module):
        raise UserError(f"the CIFAR stem fits ResNets only, not {name!r}: leave --backbone.stem at native.")
    network.conv1 = nn.Conv2d(3, conv.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
