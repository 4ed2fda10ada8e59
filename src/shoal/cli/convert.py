"""``shoal convert``: a published checkpoint as weights that every other command takes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from shoal.cli.flags import Command, OptionalPath
from shoal.cli.terminal import say
from shoal.errors import UserError
from shoal.files import expand_home
from shoal.models.backbone import Channels


@dataclass(frozen=True)
class PublishedBackbone:
    """Network settings that the checkpoint does not record."""

    name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """timm's name of the network; by default found by comparing the weights with common ones."""
    size: Annotated[int | None, tyro.conf.arg(metavar="PX", help_behavior_hint="")] = None
    """Side of the images that it takes, which are then resized to it without cropping; by default as timm has it, or 32
    for a ResNet whose stem is that for small images."""
    mean: Annotated[Channels | None, tyro.conf.arg(metavar="R G B", help_behavior_hint="")] = None
    """Channel means that it was trained with; by default timm's, which are mostly those of ImageNet."""
    std: Annotated[Channels | None, tyro.conf.arg(metavar="R G B", help_behavior_hint="")] = None
    """Channel standard deviations that it was trained with; by default timm's."""


@dataclass(frozen=True)
class ConvertCommand(Command):
    """Write the backbone of a published checkpoint as .safetensors, which --backbone.weights takes.

    Checkpoints of ProPos, BYOL, MoCo, SimSiam, PCL, CC, solo-learn, lightly, VISSL, DINO, torchvision and timm are
    known by the names of their tensors. They are read by torch.load(weights_only=True): no code in them is run.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The checkpoint: .pth, .pt, .ckpt, .tar, .bin or .safetensors."""
    out: OptionalPath = None
    """File to write; by default FILE with the ending .safetensors."""
    backbone: PublishedBackbone = field(default_factory=PublishedBackbone)

    def check(self) -> None:
        """Raise a UserError for values that do not go together."""
        if self.backbone.size is not None and self.backbone.size < 1:
            raise UserError(f"--backbone.size {self.backbone.size} must be at least 1.")
        if self.backbone.std is not None and not min(self.backbone.std) > 0:
            raise UserError("--backbone.std must be above 0: images are divided by it.")
        if self.out is not None and self.out.suffix != ".safetensors":
            raise UserError(f"--out {self.out} should end in .safetensors.")

    def run(self) -> int:
        """Write it."""
        file = expand_home(self.file)
        out = expand_home(self.out) if self.out else _beside(file)
        if out.exists():
            raise UserError(f"{out} exists already: give another --out.")
        from shoal.features.convert import convert

        own = self.backbone
        found = convert(file, own.name, size=own.size, mean=own.mean, std=own.std)
        found.save(out)
        note = found.note
        stem = "" if note.stem == "native" else ", with the stem for small images"
        left = f"; {found.n_left_out} others left out" if found.n_left_out else ""
        say(
            f"layout       {note.origin}\nnetwork      {note.architecture}{stem}\n"
            f"tensors      {len(found.tensors)}{left}\nimages       {_images(note.size)}\nweights      {out}\n\n"
            f"cluster      shoal cluster IMAGES --backbone.weights {shlex.quote(str(out))}"
        )
        return 0


def _images(size: tuple[int, int] | None) -> str:
    """How images are brought to the size of a network."""
    if size is None:
        return "resized and cropped as timm does it for this network"
    return f"resized to {size[0]} × {size[1]} px; --backbone.size, --backbone.mean and --backbone.std set others"


def _beside(file: Path) -> Path:
    """The file with another ending; that of a file which has it already says what it holds."""
    name = file.name
    for ending in (".tar", ".pth", ".pt", ".ckpt", ".bin", ".torch", ".safetensors"):
        name = name.removesuffix(ending)
    own = f"{name}.safetensors"
    return file.with_name(own if own != file.name else f"{name}-backbone.safetensors")
