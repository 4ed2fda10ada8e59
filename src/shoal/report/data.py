"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.evaluation import Evaluation
from shoal.types import Clustering, Images


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a report shows, all of it on the CPU.

    ``command`` is what reproduces the run, ``metrics`` are the rows of metrics.jsonl or a single one of scores,
    ``margins`` say how much farther than the own the second centre is (small: a doubtful image), and ``seed`` draws the
    map and the sample of a set too large for a page. ``config_yaml`` may be empty and ``metrics`` have nothing to draw
    over epochs: their sections are left out. ``evaluation`` is there once ``shoal evaluate`` has measured the run.

    The images may themselves be a sample of a larger set: of ``n_images`` images, ``sizes`` in each cluster.
    ``places`` is a plane to draw them on and ``neighbours`` are the eight images nearest to each, the nearest first
    (−1: none); both are computed where they are not given. ``confidences`` in [0, 1] replace the margins as a measure
    of doubt. ``duplicates`` are groups of ids of images that are nearly the same, and ``outliers`` ids of images far
    from all others; these may name images that are not shown.
    """

    title: str
    command: str
    config_yaml: str
    metrics: Sequence[Mapping[str, float | int | None]]
    images: Images
    features: Float[Tensor, "n d"]
    clustering: Clustering
    margins: Float[Tensor, "n"]
    seed: int
    evaluation: Evaluation | None = None
    sizes: Int64[Tensor, "k"] | None = None
    n_images: int | None = None
    places: Float[Tensor, "n 2"] | None = None
    confidences: Float[Tensor, "n"] | None = None
    neighbours: Int64[Tensor, "n 8"] | None = None
    duplicates: Sequence[Sequence[str]] = ()
    outliers: Sequence[str] = ()


@dataclass(frozen=True)
class Majority:
    """The most frequent class of a cluster and its share of the labelled; an empty name without labels."""

    name: str
    purity: float


def members(clustering: Clustering) -> list[Int64[Tensor, "_"]]:
    """For each cluster the indices of its images, the most central first."""
    labels = clustering.labels
    inwards = torch.argsort(clustering.distances, stable=True)
    grouped = inwards[torch.argsort(labels[inwards], stable=True)]
    sizes = torch.bincount(labels + 1, minlength=len(clustering.centers) + 1)
    return list(torch.split(grouped, sizes.tolist())[1:])


def majorities(images: Images, clusters: Sequence[Int64[Tensor, "_"]]) -> list[Majority]:
    """What each cluster mostly holds."""
    found = []
    for own in clusters:
        labels = images.targets[own]
        known = labels[labels >= 0]
        counts = torch.bincount(known)
        name = class_name(images, int(counts.argmax())) if len(known) else ""
        found.append(Majority(name, float(counts.max()) / len(known) if len(known) else 0.0))
    return found


def class_name(images: Images, label: int) -> str:
    """Name a class: its number if it has no name, nothing for -1."""
    if label < 0:
        return ""
    return images.classes[label] if label < len(images.classes) else str(label)
