"""Training in less memory: what lies within a block of a network is computed again for the backward pass.

Kept are the inputs of the blocks alone. The second pass gives the same bits: it has the same random numbers, and leaves
the running statistics of batch-norms as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shoal.models.small import SmallNet


def blocks_of(network: nn.Module) -> list[Sequence[nn.Module]]:
    """The blocks of a ResNet or of a ``SmallNet``, each as the modules it goes through; empty for other networks.

    What precedes a ResNet's first block is part of it, since it makes the largest maps.
    """
    if isinstance(network, SmallNet):
        layers = [*network.layers]
        ends = [at + 1 for at, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
        return [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    stages = [getattr(network, f"layer{number}", None) for number in range(1, 5)]
    stem = [getattr(network, name, None) for name in ("conv1", "bn1", "act1", "maxpool")]
    if not hasattr(network, "forward_head") or not all(isinstance(part, nn.Module) for part in (*stem, *stages)):
        return []
    first, *others = [block for stage in stages if isinstance(stage, nn.Sequential) for block in stage]
    return [[*(part for part in stem if part is not None), first], *([block] for block in others)]


def run_recomputed(network: nn.Module, images: Tensor) -> Tensor:
    """What the network makes of images, (b, 3, h, w) to (b, d), while only the inputs of its blocks are kept."""
    x = images
    for block in blocks_of(network):
        contexts = partial(_contexts, block)
        x = checkpoint(_through, block, x, use_reentrant=False, context_fn=contexts)
    features: Tensor = x.mean((2, 3)) if isinstance(network, SmallNet) else network.forward_head(x)  # type: ignore[operator]
    return features


def _through(block: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in block:
        x = module(x)
    return x


def _contexts(block: Sequence[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _buffers_kept(block)


@contextmanager
def _buffers_kept(block: Sequence[nn.Module]) -> Iterator[None]:
    """Let running statistics, which have seen these images, change in copies."""
    owners = [part for module in block for part in module.modules() if part._buffers]
    before = [dict(part._buffers) for part in owners]
    for part, buffers in zip(owners, before, strict=True):
        part._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        for part, buffers in zip(owners, before, strict=True):
            part._buffers.update(buffers)
