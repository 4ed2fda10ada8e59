"""The clusters: who is in each, how many they are, and what they mostly hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.types import Clustering, Images


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
        labels = images.labels[own]
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
