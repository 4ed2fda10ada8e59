"""Features of many images."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal.data import feed
from shoal.device import Precision, autocast
from shoal.methods.base import Method
from shoal.models import evaluating

BATCH_VALUES = {"cpu": 2**20, "cuda": 2**23}
"""Values of a batch of images, by device. On a CPU enough to fill it, and few enough that activations stay near the
cache. On a GPU 2 730 images of 32 px, by arithmetic some 6 GB for ResNet-50 with the CIFAR stem in bfloat16, or 55 of
224 px; not measured."""


def embed_all(
    method: Method,
    pixels: UInt8[Tensor, "n 3 h w"],
    device: torch.device,
    precision: Precision,
    *,
    rows: Int64[Tensor, "m"] | None = None,
    after_batch: Callable[[int, int], None] = lambda _done, _total: None,
) -> Float[Tensor, "m d"]:
    """The features that are clustered (``Method.embed``) of un-augmented images, on ``device``, in float32.

    With ``rows``, of those images only, in this order.
    ``after_batch`` takes how many images are done, and of how many; it may raise to stop.
    """
    return _map(method, method.embed, pixels, device, precision, rows, after_batch)


def represent_all(
    method: Method, pixels: UInt8[Tensor, "n 3 h w"], device: torch.device, precision: Precision
) -> Float[Tensor, "n f"]:
    """The backbone's features of un-augmented images (``Method.represent``), on ``device``, in float32."""
    return _map(method, method.represent, pixels, device, precision, None, lambda _done, _total: None)


def _map(
    method: Method,
    function: Callable[[Tensor], Tensor],
    pixels: UInt8[Tensor, "n 3 h w"],
    device: torch.device,
    precision: Precision,
    rows: Int64[Tensor, "m"] | None,
    after_batch: Callable[[int, int], None],
) -> Float[Tensor, "m d"]:
    """Features of all images, or of some, batch after batch."""
    n, _, h, w = pixels.shape
    wanted = torch.arange(n, device=pixels.device) if rows is None else rows.to(pixels.device)
    parts = torch.split(wanted, max(16, BATCH_VALUES[device.type] // (3 * h * w)))
    found: list[Tensor] = []
    done = 0
    with evaluating(method), autocast(device, precision), closing(feed(pixels, parts, device)) as batches:
        for batch in batches:
            found.append(function(batch.float().div_(255)).float())
            done += len(batch)
            after_batch(done, len(wanted))
    return torch.cat(found)
