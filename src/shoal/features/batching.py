"""How many images go through a network at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from shoal.features.encoder import Encoder

_VALUES = 2**23
"""On a CPU, values of the largest feature map of a batch: larger ones leave the caches. See benchmarks/LOG.md."""


_ON_CPU = (4, 64)


_ON_GPU = (16, 1024)


_PAYS = 1.05
"""A batch twice as large is taken if it gives this many times the images per second."""


def choose_batch_size(encoder: Encoder) -> int:
    """Choose a batch that is fast and fits.

    On a CPU it follows from the network, so that the same images give the same features on another day. On a GPU
    batches are doubled until they do not fit, or do not pay any more; one below what just fits is taken.
    """
    if encoder.device.type == "cpu":
        least, most = _ON_CPU
        fitting = round(math.log2(_VALUES / _largest_map(encoder)))
        return min(most, max(least, 1 << max(fitting, 0)))
    return largest_that_pays(lambda size: _rate(encoder, size), *_ON_GPU)


def largest_that_pays(rate: Callable[[int], float], least: int, most: int) -> int:
    """Double a batch while the rate (images per second) grows; memory that runs out leaves a margin of one half."""
    size, best = least, 0.0
    while True:
        try:
            found = rate(size)
        except torch.OutOfMemoryError:
            return max(size // 4, 1)
        if found < _PAYS * best:
            return size // 2
        if size >= most:
            return size
        size, best = 2 * size, found


def _rate(encoder: Encoder, size: int) -> float:
    pixels = torch.zeros(size, 3, *encoder.input_size, dtype=torch.uint8)
    encoder.embed(pixels)  # the first time, kernels are chosen
    start = time.perf_counter()
    encoder.embed(pixels)
    return size / (time.perf_counter() - start)


def _largest_map(encoder: Encoder) -> int:
    """Values of the largest output of a layer for one image."""
    largest = 3 * math.prod(encoder.input_size)

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [module.register_forward_hook(look) for module in encoder.fast.modules()]
    try:
        encoder.embed(torch.zeros(1, 3, *encoder.input_size, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return largest
