"""Batch-norms in use become part of the convolutions before them: one pass over the feature map less for each."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
