"""Backbones: images in [0, 1] in, one feature vector per image out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from shoal.errors import UserError, did_you_mean
from shoal.models.recompute import blocks_of, run_recomputed
from shoal.models.small import SmallNet

Channels = tuple[float, float, float]

Stem = Literal["native", "cifar", "cifar-pad2"]
"""A ResNet's first layers: its own, or those for small images, padded by one pixel or, as in solo-learn, two."""

COMPILER = "inductor"
"""The backend of ``torch.compile``."""


@dataclass(frozen=True)
class BackboneConfig:
    """The network under a method's heads."""

    name: str = "resnet18"
    """A timm model, or "small": a plain three-stage net for images of 8 to 64 px."""
    stem: Stem = "native"
    """"cifar" swaps a ResNet's first layers for a 3×3 convolution of stride 1 without pooling, for small images;
    "cifar-pad2" pads it by two pixels, for weights of solo-learn."""
    width: Annotated[int, Gt(0)] = 32
    """Channels of the small net's first stage; the later two have twice and four times as many."""
    depth: Annotated[int, Gt(0)] = 1
    """Convolutions in each stage of the small net."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Channel means, subtracted from the image."""
    std: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.229, 0.224, 0.225)
    """Channel standard deviations, by which the image is divided."""
    weights: str = ""
    """Weights to start from instead of random ones: a .safetensors file, such as 'shoal convert' writes of a published
    checkpoint, the folder of an earlier run, timm for the published ones of its model, or hf://OWNER/NAME."""
    freeze: Annotated[int, Ge(0)] = 0
    """Stages after the stem that stay as they are, with the stem: no gradient, weight decay or batch-norm update. 0
    trains everything. A stage of a vision transformer is one block."""


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
        self.n_frozen = 0
        self._frozen: frozenset[str] = frozenset()
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

    def freeze(self, stages: int) -> None:
        """Keep the stem and this many stages as they are: no gradient, and their batch-norms use what they know.

        Raises:
            UserError: the network has fewer stages, or does not say what they are.
        """
        self.n_frozen = stages
        if not stages:
            return
        of_stages = stages_of(self.network)
        if stages >= len(of_stages):
            have = f"{len(of_stages) - 1} stages" if of_stages else "no stages that are known"
            raise UserError(f"--backbone.freeze {stages}: the backbone has {have}.")
        self._frozen = frozenset(name for names in of_stages[: stages + 1] for name in names)
        for name, parameter in self.network.named_parameters():
            if name in self._frozen:
                parameter.requires_grad = False

    def train(self, mode: bool = True) -> Backbone:
        """Training mode, but for the parts that are frozen: their batch-norms and dropouts stay in evaluation mode."""
        super().train(mode)
        if mode and self._frozen:
            for name, module in self.network.named_modules():
                own = [f"{name}.{each}".lstrip(".") for each, _ in module.named_parameters()]
                if own and self._frozen.issuperset(own):
                    module.eval()
        return self

    def recompute_training(self) -> None:
        """From now on compute blocks again for the backward pass, which takes less memory and more time.

        Raises:
            UserError: the blocks of the network are not known.
        """
        if not blocks_of(self.network):
            kind = type(self.network).__name__
            raise UserError(f"--recompute supports ResNets and the small net, not {kind}: leave it out.")
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
    use_stem(network, config.stem, config.name)
    backbone = Backbone(network, n_features, config.mean, config.std, made_for)
    backbone.freeze(config.freeze)
    return backbone


def stages_of(network: nn.Module) -> list[list[str]]:
    """Names of the parameters of the stem, then of each stage; nothing if the network does not say.

    timm's networks say it for layer-wise learning rates. What comes behind the last stage, such as a norm, counts as
    one more where timm has it as one.
    """
    if isinstance(network, SmallNet):
        return [[], *network.stages]
    if not hasattr(network, "group_matcher"):
        return []
    from timm.models import group_parameters

    matcher: Any = network.group_matcher
    found = group_parameters(network, matcher(coarse=True))
    return [names for _, names in sorted(found.items())]


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
        hint = did_you_mean(name, [*known, "small"], "timm.list_models() lists the names.")
        raise UserError(f"there is no backbone named {name!r}: {hint}")


def _from_timm(name: str) -> nn.Module:
    import timm

    check_timm_name(name)
    return timm.create_model(name, pretrained=False, num_classes=0)


def use_stem(network: nn.Module, stem: Stem, name: str) -> None:
    """Give a ResNet its stem; that for small images has fresh weights.

    3×3 stride-1 first convolution and no max-pool, as SimCLR trains on CIFAR (arXiv 2002.05709, section B.9).

    Raises:
        UserError: it is not a ResNet.
    """
    if stem == "native":
        return
    conv = getattr(network, "conv1", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(getattr(network, "maxpool", None), nn.Module):
        raise UserError(f"the CIFAR stem fits ResNets only, not {name!r}: leave --backbone.stem at native.")
    padding = 2 if stem == "cifar-pad2" else 1
    network.conv1 = nn.Conv2d(3, conv.out_channels, kernel_size=3, stride=1, padding=padding, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
