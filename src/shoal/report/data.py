"""The data of a report, and what several of its parts derive from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from shoal.evaluation import Evaluation
from shoal.types import Clustering, Images


@dataclass(frozen=True)
class Copy:
    """An image of a group of duplicates."""

    id: str
    kind: str
    """exact, near, or link: another name of a file of the group."""
    keep: bool = False
    """Whether it is the best one of its group; none is where too little is known of them."""
    size: str = ""
    """Width and height in pixels, as text; empty: not known."""

    @property
    def note(self) -> str:
        """What is said below it."""
        return ", ".join(filter(None, (self.size, {"exact": "same file", "link": "link"}.get(self.kind, ""))))


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a report shows, on the CPU; the same for a training run and for a clustering of pretrained features.

    The images may be a sample of a larger set; a page shows at most ``contents.MAX_SHOWN`` of those given.
    """

    title: str
    command: str
    """Shell command that reproduces the result."""
    config_yaml: str
    """Empty: the page has no configuration."""
    metrics: Sequence[Mapping[str, float | int | None]]
    """Rows of metrics.jsonl, or a single row of scores; without two epochs there is nothing to plot."""
    images: Images
    features: Float[Tensor, "n d"]
    """Of the images; their nearest neighbours on the page are those by Euclidean distance."""
    clustering: Clustering
    """Of the images."""
    confidences: Float[Tensor, "n"]
    """Of each image in its cluster, in [0, 1]; the least confident are shown as the most doubtful."""
    positions: Float32[Tensor, "n 2"]
    """On the map; NaN: not on the map."""
    map_method: str
    """How the map was made, in words."""
    seed: int
    """Draws the sample of a set too large for a page."""
    sizes: Int64[Tensor, "k"]
    """Images of each cluster in the whole set."""
    n_images: int
    """Images in the whole set."""
    merged: Sequence[int] = ()
    """Clusters that no longer exist: a person has merged them, or taken all images out of one of their own."""
    n_asked: int = 0
    """Number of clusters asked for; there are fewer with images where the others would have been empty."""
    layers: Mapping[int, str] = field(default_factory=dict)
    """Other possible numbers of clusters, and the shell command that makes that many."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Names of clusters, shown as their titles until they are renamed on the page."""
    duplicates: Sequence[Sequence[Copy]] = ()
    """Images that are nearly the same, group by group; they may be images that are not shown."""
    more_duplicates: int = 0
    """Groups beside those."""
    outliers: Sequence[str] = ()
    """Ids of images far from all others; they may name images that are not shown."""
    more_outliers: int = 0
    """Images far from all others beside those."""
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class Majority:
    """The most frequent class of a cluster and its share of the labelled images; an empty name without labels."""

    name: str
    purity: float


def members(clustering: Clustering) -> list[Int64[Tensor, "_"]]:
    """Indices of the images of each cluster, the most central first."""
    labels = clustering.labels
    inwards = torch.argsort(clustering.distances, stable=True)
    grouped = inwards[torch.argsort(labels[inwards], stable=True)]
    sizes = torch.bincount(labels + 1, minlength=len(clustering.centers) + 1)
    return list(torch.split(grouped, sizes.tolist())[1:])


def majorities(images: Images, clusters: Sequence[Int64[Tensor, "_"]]) -> list[Majority]:
    """The majority class of each cluster."""
    found = []
    for own in clusters:
        labels = images.targets[own]
        known = labels[labels >= 0]
        counts = torch.bincount(known)
        name = class_name(images, int(counts.argmax())) if len(known) else ""
        found.append(Majority(name, float(counts.max()) / len(known) if len(known) else 0.0))
    return found


def class_name(images: Images, label: int) -> str:
    """Name of a class: its number if it has none, empty for -1."""
    if label < 0:
        return ""
    return images.classes[label] if label < len(images.classes) else str(label)
