"""The classifier that a pretrained network ends in, applied to features that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.features.encoder import Encoder, timm_network
from shoal.features.layouts import PREFIXES
from shoal.features.weights import as_list, hub_file, load_weights
from shoal.models.backbone import evaluating

_AGREES = 1e-3
"""Largest difference of logits, relative to their largest, that rounding explains."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """The last layers of a network, and the classes that they tell apart."""

    classes: Sequence[str]
    """Name of each; several classes may share one."""
    heads: Sequence[nn.Module]
    """Several for networks trained by distillation, whose logits are averaged."""
    device: torch.device

    def probabilities(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Probability of each class, float32 on the CPU, of images given by their features."""
        with torch.inference_mode():
            return _logits(self.heads, features.to(self.device, torch.float32)).softmax(1).cpu()


def load_classifier(encoder: Encoder) -> Classifier:
    """Load the classifier that belongs to a network, from the file that has the network's own weights.

    shoal keeps the features that a classifier reads, so its logits follow without the images. That is so for nearly
    all networks of timm, but not where a classifier reads anything else as well, such as the distillation token of
    DeiT. So the classifier is tried: on a random image, its logits must be those of the whole network.

    Raises:
        UserError: the weights have no classifier, the names of its classes are not known, or it reads more than the
            features.
    """
    name = encoder.spec.name
    if encoder.spec.kind != "timm":
        raise UserError(f"{name} has no classifier.")
    network: Any = encoder.module.network
    config: Mapping[str, Any] = network.pretrained_cfg
    file = Path(encoder.spec.weights) if encoder.spec.weights else hub_file(name, config)
    classes = _class_names(_count_classes(file, config))
    if not classes:
        raise UserError(f"the weights of {name} have no classifier with ImageNet's classes.")
    whole = timm_network(name, encoder.device, num_classes=len(classes))
    try:
        load_weights(whole, file, config)
    except UserError as error:
        raise UserError(f"the weights of {name} have no classifier: {error}") from error
    found: nn.Module | Sequence[nn.Module] = whole.get_classifier()
    heads = [found] if isinstance(found, nn.Module) else [*found]
    whole.to(encoder.device).eval().requires_grad_(requires_grad=False)
    if not _reads_features_alone(encoder, whole, heads):
        raise UserError(f"the classifier of {name} reads more than the features that shoal keeps.")
    return Classifier(classes, heads, encoder.device)


def _count_classes(file: Path, config: Mapping[str, Any]) -> int:
    """How many classes weights tell apart; what timm says of the published ones where the file uses other names."""
    wanted = {f"{prefix}{head}.weight" for prefix in PREFIXES for head in as_list(config.get("classifier"))}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no iterator
                if name in wanted:
                    return int(opened.get_slice(name).get_shape()[0])
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the weights {file} ({error}): download the file again.") from error
    return int(config.get("num_classes") or 0)


def _class_names(n: int) -> list[str]:
    """The names of n classes: ImageNet's where it has a list of this length, as timm gives them."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": n})
    return [] if subset is None else [_first(text) for text in ImageNetInfo(subset).label_descriptions()]


def imagenet_words() -> list[str]:
    """The names of ImageNet-21k's classes, each once, in its order."""
    return [*dict.fromkeys(_class_names(21_843))]


def _first(synonyms: str) -> str:
    """The first of WordNet's synonyms, which is the usual one: "tench" of "tench, Tinca tinca"."""
    return synonyms.partition(",")[0].strip()


def _reads_features_alone(encoder: Encoder, whole: nn.Module, heads: Sequence[nn.Module]) -> bool:
    """Whether the logits of the whole network follow from the features."""
    image = torch.rand(1, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0)).to(encoder.device)
    backbone: Any = encoder.module
    try:
        with evaluating(whole):
            expected = whole((image - backbone.mean) / backbone.std)
            found = _logits(heads, backbone(image))
    except (RuntimeError, TypeError, NotImplementedError):  # heads that are not applied one after the other
        return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _AGREES * expected.abs().max())


def _logits(heads: Sequence[nn.Module], features: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
    """Logits of features; ResNetV2 has a 1 × 1 convolution for a classifier."""
    maps = features[:, :, None, None]
    each = [head(maps if isinstance(head, nn.Conv2d) else features).flatten(1) for head in heads]
    return torch.stack(each).mean(0)
