"""The last step of every source: an ``Images`` from its pixels and what is known of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from shoal.types import Images


def as_images(
    pixels: UInt8[np.ndarray, "n 3 h w"],
    labels: Sequence[int] | Int64[np.ndarray, "n"],
    classes: tuple[str, ...],
    ids: Sequence[str],
    skipped: Mapping[str, str],
    held_out: Sequence[bool] = (),
    clustered: Sequence[bool] = (),
) -> Images:
    """Share the memory of ``pixels``, be it read-only.

    ``held_out`` says of each image whether it is of the test part (empty: none is), ``clustered`` whether it takes
    part in the clustering (empty: all do).

    A memory map is to be a read-only one: of a writable private map the kernel refuses what exceeds the RAM.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written to
        tensor = torch.from_numpy(pixels)
    truth = torch.tensor(labels, dtype=torch.int64)
    takes_part = _flags(clustered, len(truth), default=True)
    return Images(tensor, truth, takes_part, classes, ids, skipped, _flags(held_out, len(truth), default=False))


def _flags(values: Sequence[bool], n: int, *, default: bool) -> Bool[Tensor, "n"]:
    return torch.tensor(values, dtype=torch.bool) if len(values) else torch.full((n,), default)
