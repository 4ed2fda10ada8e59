"""How published checkpoints name a backbone's tensors, in one table.

Sources are the publishers' own code: what they save, and how their evaluation reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from shoal.errors import UserError
from shoal.models.backbone import Stem


@dataclass(frozen=True)
class Layout:
    """Where in a checkpoint a backbone's tensors are, and what stands before their names."""

    publisher: str
    prefix: str
    """Before the names of the backbone's tensors, behind the ``module.`` of parallel training."""
    beside: str = ""
    """How the name of a tensor beside them begins, which tells the layout from others; empty: nothing has to."""
    at: str = ""
    """Keys that lead to the tensors in a checkpoint of several parts, with dots between them."""
    small_stem: Stem = "cifar"
    """The stem of its ResNets for small images, which shapes alone do not tell."""


LAYOUTS = (
    Layout("torchvision, timm or DINO", ""),
    # encoder_k is evaluated; both encoders are nn.Sequential, so their tensors have numbers for names.
    Layout("ProPos or its BYOL", "encoder_k.", beside="projector_k."),
    Layout("MoCo or PCL", "encoder_q.", at="state_dict"),
    Layout("MoCo v3", "base_encoder.", at="state_dict"),
    Layout("CC", "resnet.", beside="instance_projector.", at="net"),
    # Its 3×3 stem pads by two pixels.
    Layout("solo-learn", "backbone.", beside="classifier.", at="state_dict", small_stem="cifar-pad2"),
    Layout("solo-learn", "encoder.", beside="classifier.", at="state_dict", small_stem="cifar-pad2"),
    Layout("DINO", "backbone.", beside="head.", at="teacher"),
    Layout("lightly or mmselfsup", "backbone.", at="state_dict"),
    Layout("lightly or mmselfsup", "teacher_backbone.", beside="student_backbone.", at="state_dict"),
    Layout("SimSiam or SupContrast", "encoder.", at="state_dict"),
    Layout("VISSL", "_feature_blocks.", at="classy_state_dict.base_model.model.trunk"),
    Layout("VISSL", "trunk._feature_blocks.", at="model_state_dict"),
    Layout("Lightning", "model.", at="state_dict"),
    Layout("Lightning", "model.backbone.", at="model"),
    Layout("a run of shoal", "method.target.network.0.network."),
    Layout("a run of shoal", "method.online.0.network."),
    Layout("a run of shoal", "method.backbone.network."),
)
"""The layouts that are known. Where several fit equally well, the first of them is meant."""

WRAPPERS = ("module.", "_orig_mod.")
"""What parallel training and ``torch.compile`` put before all names."""

PREFIXES = tuple(dict.fromkeys(w + each.prefix for each in LAYOUTS for w in ("", *WRAPPERS)))
"""What may stand before the names of a network's tensors."""

HEADS = (
    *("head.", "head_dist.", "fc.", "classifier.", "last_linear.", "linear.", "mask_token"),
    *("projection_head.", "prototypes.", "projector.", "predictor."),
)
"""Tensors that a checkpoint may have in addition: classifiers by their usual names, and those used in training only."""

_STEM = "conv1.weight"
_NUMBERED = {"0": "conv1", "1": "bn1"}


@dataclass(frozen=True, eq=False)
class Found:
    """The tensors of a backbone, named as in timm."""

    layout: Layout
    tensors: Mapping[str, Tensor]

    def stem_for(self, network: nn.Module, own: Stem) -> Stem:
        """The stem that a network of timm needs for them; ``own`` is that which it has."""
        theirs, mine = self.tensors.get(_STEM), network.state_dict().get(_STEM)
        if theirs is None or mine is None:
            return own
        small = theirs.shape[2:] == (3, 3) and (own != "native" or mine.shape[2:] != (3, 3))
        return self.layout.small_stem if small else "native"


def tensors_in(checkpoint: Any) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, wherever one of the layouts has them; none if there are none."""
    for keys in dict.fromkeys([*(each.at for each in LAYOUTS), "model", "student"]):
        part = checkpoint
        for key in filter(None, keys.split(".")):
            part = part.get(key) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping):
            found = {key: value for key, value in part.items() if isinstance(key, str) and isinstance(value, Tensor)}
            if found:
                return found
    return {}


def read_as(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Found:
    """The tensors by the names that a network wants, from the layout that has most of these.

    Args:
        tensors: of a checkpoint.
        wanted: the network's own, by their names.

    Raises:
        UserError: they are those of a network that works otherwise although its tensors fit.
    """
    bare = tensors
    while wrapper := next((w for w in WRAPPERS if bare and all(name.startswith(w) for name in bare)), ""):
        bare = _without(bare, wrapper)
    fits = [Found(layout, named) for layout in LAYOUTS for named in _readings(bare, layout)]
    return min(fits, key=lambda each: len(wanted.keys() - each.tensors.keys()))


def first_wrong(found: Found, wanted: Mapping[str, Tensor], heads: Sequence[str]) -> str | None:
    """Describe the first tensor that does not fit; None if all do."""
    tensors = found.tensors
    for name, value in wanted.items():
        if name not in tensors:
            return f"{name} is missing"
        if tensors[name].shape != value.shape:
            return f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
    odd = (n for n in tensors if n not in wanted and not is_counter(n) and not n.startswith((*HEADS, *heads)))
    return next((f"{name} belongs to another network" for name in odd), None)


def described(layout: Layout) -> str:
    """A layout, for messages."""
    return f"that of {layout.publisher} ({layout.prefix or 'plain names'})"


def is_counter(name: str) -> bool:
    """Whether a tensor only counts the batches that a batch-norm has seen."""
    return name.endswith("num_batches_tracked")


def _readings(tensors: Mapping[str, Tensor], layout: Layout) -> Iterator[dict[str, Tensor]]:
    """The backbone's tensors if the checkpoint has this layout, and with the names of other ResNets translated."""
    if layout.beside and not any(name.startswith(layout.beside) for name in tensors):
        return
    found = _without(tensors, layout.prefix)
    yield found
    if named := _from_numbers(found):
        yield named
    if any(".shortcut." in name for name in found):  # ResNets for CIFAR that do not come from torchvision
        yield {name.replace(".shortcut.", ".downsample."): value for name, value in found.items()}


def _from_numbers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a ResNet that was made an ``nn.Sequential`` of its parts; none if they are not.

    Convolution, batch-norm, ReLU, in the native stem pooling, and four stages.

    Raises:
        UserError: the stages begin behind the batch-norm.
    """
    stages = sorted({int(name.partition(".")[0]) for name in tensors if re.match(r"\d+\.\d+\.conv1\.weight$", name)})
    if len(stages) != 4 or "0.weight" not in tensors:
        return {}
    if stages[0] == 2:
        raise UserError(
            "these are weights of lightly's ResNetGenerator without a ReLU in the stem, which timm's ResNets have, so "
            "that their features would differ: give weights of a ResNet of torchvision or timm."
        )
    names = {**_NUMBERED, **{str(number): f"layer{i}" for i, number in enumerate(stages, 1)}}
    parts = ((name.partition("."), value) for name, value in tensors.items())
    return {f"{names[number]}.{rest}": value for (number, _, rest), value in parts if number in names}


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
