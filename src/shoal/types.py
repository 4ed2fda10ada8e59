"""Types shared by all modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Others:
    """What there is in a source beside its images.

    ``counts`` says of how many of each kind of file, or of folders that systems fill with thumbnails, none was read.
    ``reasons`` names those that may hold pictures, and how to have them read.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counts)


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images of one size, as pixels.

    ``pixels`` is one uint8 RGB tensor: on the compute device when it fits there, else backed by a memory map.
    ``targets`` are the true classes, read by evaluation and report alone; -1 means "no label".
    ``clustered`` marks the images that take part in the clustering (all of them, except for STL-10's unlabelled part).
    ``classes`` are the names of the targets, ``ids`` the names of the images (a path, or a row of a file), and
    ``skipped`` says for each file that could not be read why.
    ``others`` is what there is beside images.
    ``notes`` says of images that were read what they lack, by their names. ``ranges`` holds, by type of number, the
    values of more than 8 bits that became black and white.
    ``held_out`` marks the images of the data set's own test part, none where the source knows of no such part. They
    are trained on and clustered like all others, as the published results do it; only evaluation tells them apart.
    ``file_stats`` are size and times of each image's file before it was read, None where images are not single files.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    targets: Int64[Tensor, "n"]
    clustered: Bool[Tensor, "n"]
    classes: tuple[str, ...]
    ids: Sequence[str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    held_out: Bool[Tensor, "n"] = None  # type: ignore[assignment]  # never None: see below
    notes: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    others: Others = field(default_factory=Others)
    file_stats: Int64[Tensor, "n 3"] | None = None

    def __post_init__(self) -> None:
        if self.held_out is None:
            object.__setattr__(self, "held_out", torch.zeros(len(self.pixels), dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, eq=False)
class Batch:
    """Augmented views of the same images, in [0, 1], and where those of the global batch stand in their ``Images``.

    With several processes the views are this rank's share of the global batch, and ``index`` is the whole of it.
    ``progress`` is the share of the epochs that are done, in [0, 1).
    """

    view1: Float[Tensor, "b 3 h w"]
    view2: Float[Tensor, "b 3 h w"]
    index: Int64[Tensor, "global_b"]
    progress: float = 0.0
    more: tuple[Float[Tensor, "b 3 h w"], ...] = ()
    """Views beyond the second."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """One clustering of all images: a label each (-1: none), the centres, and the distance to the own centre."""

    labels: Int64[Tensor, "n"]
    centers: Float[Tensor, "k d"]
    distances: Float[Tensor, "n"]
