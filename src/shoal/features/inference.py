"""How a network is made ready for use: images prepared as it expects, batch-norms folded into convolutions."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from shoal.data.decode import UnreadableError
from shoal.data.greys import Samples, Scale
from shoal.data.listing import Pixels
from shoal.data.reading import ToSquare, open_content

_AGREES = 1e-3
"""Largest difference of features, relative to their largest, that rounding explains."""


def fold_batch_norm(network: nn.Module, images: Float[Tensor, "b 3 h w"]) -> nn.Module:
    """Copy a network in eval mode with its batch-norms folded, or give it back where it has none to fold.

    Pairs are found by watching which batch-norm reads what a convolution has just made of ``images``, since many
    networks cannot be traced. The copy is used only if it gives the same features up to rounding: a convolution
    that something else reads as well must stay as it is.
    """
    pairs = _pairs(network, images)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type] # they are
        # timm's batch-norm ends with an activation of its own.
        rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        folded.set_submodule(norm_name, nn.Sequential(*rest))
    with torch.no_grad():
        before, after = network(images), folded(images)
    close = bool((before - after).abs().max() <= _AGREES * before.abs().max())
    return folded if close else network


def _pairs(network: nn.Module, images: Float[Tensor, "b 3 h w"]) -> list[tuple[str, str]]:
    """Names of each convolution and the batch-norm that reads it, of those that are used once."""
    names = {module: name for name, module in network.named_modules()}
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors are kept, so that no other takes their id
    pairs: list[tuple[nn.Module, nn.Module]] = []
    uses: dict[nn.Module, int] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        uses[module] = uses.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made_by[id(output)] = module, output
        elif id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], module))

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(after) for module in network.modules() if isinstance(module, kinds)]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(names[conv], names[norm]) for conv, norm in pairs if uses[conv] == uses[norm] == 1]


ENOUGH = 2
"""A JPEG may be decoded to 1/2, 1/4 or 1/8 if that leaves this many times the side that it is resized to."""


_ENOUGH_IN_TRAINING = 3
"""The same for a run: ``data.decode`` has read its images so."""


_LONGEST = 8
"""Images that are longer than this many times their short side are cut before they are resized, not afterwards."""


class NetworkPreparing(ABC):
    """What brings an image to the pixels of a network; ``about`` says how, as timm names it."""

    about: Mapping[str, str]
    min_side: int | None

    @abstractmethod
    def from_image(self, image: Image.Image, /) -> Pixels:
        """Make pixels of an image in mode RGB."""

    def __call__(self, data: bytes | Pixels | Samples, scale: Scale | None = None, /) -> UInt8[np.ndarray, "3 h w"]:
        """Make pixels of a file or of other pixels.

        Raises:
            UnreadableError: it cannot be decoded.
        """
        return self.from_image(open_content(data, self.min_side, scale or Scale())[0])


class TimmPreparing(NetworkPreparing):
    """Resizes and crops as timm does to evaluate a model, and leaves out the normalisation."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config`` is what ``timm.data.resolve_data_config`` gives."""
        from timm.data.transforms_factory import create_transform

        self._transform: Callable[[Image.Image], Any] = create_transform(**config, is_training=False, normalize=False)
        self.min_side: int | None = ENOUGH * math.ceil(max(config["input_size"][1:]) / config["crop_pct"])
        self._cuts = config["crop_mode"] == "center"
        self.about: Mapping[str, str] = {name: str(config[name]) for name in ("interpolation", "crop_pct", "crop_mode")}

    def from_image(self, image: Image.Image, /) -> Pixels:
        """Make pixels of an image in mode RGB."""
        if self._cuts:
            image = cut(image)
        pixels: UInt8[np.ndarray, "3 h w"] = self._transform(image).numpy()
        return pixels


class SquarePreparing(NetworkPreparing):
    """Brings images to the size that a run was trained on, as its training did."""

    def __init__(self, size: tuple[int, int]) -> None:
        """``size`` is height and width in pixels."""
        self._size = size
        self._to_square = ToSquare(size[0] if size[0] == size[1] else None)
        self.min_side = self._to_square.min_side
        self.about: Mapping[str, str] = {"interpolation": "bilinear", "crop_pct": "1.0", "crop_mode": "center"}

    def from_image(self, image: Image.Image, /) -> Pixels:
        """Make pixels of an image in mode RGB.

        Raises:
            UnreadableError: the run's images were not square and this has another size.
        """
        pixels = self._to_square.from_image(image)
        if pixels.shape[1:] != self._size:
            found, trained = (" × ".join(map(str, size)) for size in (pixels.shape[1:], self._size))
            raise UnreadableError(f"{found} px, and the run was trained on {trained} px")
        return pixels


def cut(image: Image.Image) -> Image.Image:
    """Keep the centre of a very long image: whole, one of 1 × 5000 px would take a gigabyte once it is resized."""
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))
