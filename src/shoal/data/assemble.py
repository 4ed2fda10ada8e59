"""The last step of every source: an ``Images`` from its pixels and what is known of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from shoal.types import Images


def as_images(
    pixels: UInt8[np.ndarray, "n 3 h w"],
    labels: Sequence[int],
    classes: tuple[str, ...],
    ids: Sequence[str],
    skipped: Mapping[str, str],
    held_out: Sequence[bool] = (),
) -> Images:
    """Share the memory of ``pixels``, be it read-only; all images take part in the clustering.

    ``held_out`` says of each image whether it is of the test part; empty: none is.

    A memory map is to be a read-only one: of a writable private map the kernel refuses what exceeds the RAM.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor is it written to
        tensor = torch.from_numpy(pixels)
    truth = torch.tensor(labels, dtype=torch.int64)
    clustered = torch.ones(len(truth), dtype=torch.bool)
    test_part = torch.tensor(held_out, dtype=torch.bool) if held_out else ~clustered
    return Images(tensor, truth, clustered, classes, ids, skipped, test_part)
