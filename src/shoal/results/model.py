"""What puts images into the present clusters: a clusterer, and what a person made of its clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from shoal.clustering.calibration import Posterior
from shoal.clustering.centroids import group_sums
from shoal.clustering.parameters import precision_of
from shoal.clustering.rows import Metric, Rows, squared_distances, unit_length
from shoal.decisions.replay import Replayed


class Combine(nn.Module):
    """Probabilities of a clusterer's k clusters to those of the s present ones.

    A clusterer's cluster that was merged gives its probability to the one that it is in. One that was divided gives
    it to the part whose centre is nearest.
    """

    into: Tensor
    shift: Tensor
    points: Tensor
    slots: Tensor

    def __init__(
        self,
        into: Float[Tensor, "k s"],
        points: Float[Tensor, "p d"],
        spans: Sequence[tuple[int, int, int]],
        slots: Int64[Tensor, "p"],
        metric: Metric,
    ) -> None:
        """``spans``: of each divided cluster its number and the first and last of its parts among ``points``."""
        super().__init__()
        self.cosine = metric == "cosine"
        self.spans = tuple(spans)
        points = unit_length(points.double()) if self.cosine else points.double()
        self.register_buffer("into", into)
        self.register_buffer("shift", points.mean(0) if len(points) else points.new_zeros(points.shape[1]))
        self.register_buffer("points", points - self.shift)
        self.register_buffer("slots", one_hot(slots, into.shape[1]).to(into.dtype))

    def forward(self, features: Float[Tensor, "b d"], probabilities: Float[Tensor, "b k"]) -> Float[Tensor, "b s"]:
        """Probability of each present cluster."""
        found = probabilities @ self.into.to(probabilities.dtype)
        if not self.spans:
            return found
        x = unit_length(features.double()) if self.cosine else features.double()
        squared = squared_distances(x - self.shift, self.points)
        for cluster, start, end in self.spans:
            nearest = one_hot(squared[:, start:end].argmin(1), end - start).to(probabilities.dtype)
            found = found + probabilities[:, cluster, None] * (nearest @ self.slots[start:end].to(probabilities.dtype))
        return found


class Numbered(nn.Module):
    """A clusterer as a module, and what a person made of its clusters."""

    def __init__(self, clusterer: nn.Module, combine: Combine) -> None:
        super().__init__()
        self.clusterer = clusterer
        self.combine = combine

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b s"]:
        """Probability of each present cluster."""
        combined: Tensor = self.combine(features, self.clusterer(features))
        return combined


@dataclass(frozen=True, eq=False)
class Model:
    """Probabilities of the present clusters, whose ``numbers`` ascend and may have gaps."""

    clusterer: Posterior
    centers: Float[Tensor, "s d"]
    numbers: Int64[Tensor, "s"]
    combine: Combine | None = None
    """None where the clusters are those of the clusterer."""

    def predict_proba(self, X: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]:
        """Probability of each present cluster."""
        found = torch.as_tensor(self.clusterer.predict_proba(X))
        if self.combine is None:
            return found
        with torch.no_grad():
            combined: Tensor = self.combine(X, found)
        return combined

    def as_module(self) -> nn.Module:
        """The same as a network, to export."""
        module = self.clusterer.as_module()
        return module if self.combine is None else Numbered(module, self.combine)

    def slots_of(self, labels: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """Places of clusters among ``numbers``; −1 stays."""
        return torch.searchsorted(self.numbers, labels).where(labels >= 0, -1)

    def numbers_of(self, slots: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """Numbers of the clusters in some places; −1 stays."""
        return self.numbers[slots.clamp(min=0)].where(slots >= 0, -1)


def decided_model(
    replayed: Replayed,
    clusterer: Posterior,
    known: Sequence[int],
    centers: Mapping[int, Float[Tensor, "d"]],
    features: Float[Tensor, "n d"],
    metric: Metric,
) -> Model:
    """The model of a clustering with decisions.

    The centre of a cluster whose images are those that the clusterer put into it stays, as does that of one that has
    lost all of its images, which for a made one is the mean of those that it stands for; others are means of images.

    Args:
        replayed: the decisions.
        clusterer: that they are about.
        known: the clusters that it knows, in the order of its probabilities.
        centers: of the clusters that were found before any decision, by their numbers.
        features: of the images.
        metric: of the distances.

    Raises:
        UserError: the features hold zero rows under the cosine.
    """
    numbers = torch.tensor(replayed.clusters, dtype=torch.int64)
    slot = {number: place for place, number in enumerate(numbers.tolist())}
    labels = torch.from_numpy(replayed.labels)
    parts = replayed.parts()
    into = torch.zeros(len(known), len(numbers))
    for column, number in enumerate(known):
        if number not in parts and replayed.into[number] in slot:
            into[column, slot[replayed.into[number]]] = 1
    means = _means(features, metric, torch.searchsorted(numbers, labels).where(labels >= 0, -1), len(numbers))
    changed = _changed(replayed)
    own = []
    for number, mean in zip(numbers.tolist(), means, strict=True):
        is_empty = not torch.isfinite(mean).all()  # it has lost all of its images
        if number in centers and (is_empty or number not in changed):
            own.append(centers[number])
            continue
        if is_empty:
            mean = torch.stack([centers[each] for each in centers if replayed.into[each] == number]).double().mean(0)
        own.append(normalize(mean, dim=0) if metric == "cosine" else mean)
    pairs = [(origin, now) for origin in sorted(parts) for now in parts[origin]]
    base = torch.from_numpy(replayed.base)
    groups = torch.full_like(labels, -1)
    for place, (origin, now) in enumerate(pairs):
        groups[(base == origin) & (labels == now)] = place
    points = _means(features, metric, groups, len(pairs))
    column_of = {number: column for column, number in enumerate(known)}
    spans, start = [], 0
    for origin in sorted(parts):
        spans.append((column_of[origin], start, start + len(parts[origin])))
        start += len(parts[origin])
    slots = torch.tensor([slot[now] for _, now in pairs], dtype=torch.int64)
    combine = Combine(into, points, spans, slots, metric)
    return Model(clusterer, torch.stack(own).to(precision_of(features)), numbers, combine)


def _changed(replayed: Replayed) -> set[int]:
    """Present clusters that hold other images than the clusterer put into those of their number."""
    apart = replayed.labels != replayed.base
    return set(np.unique(np.concatenate([replayed.labels[apart], replayed.base[apart]])).tolist())


def _means(
    features: Float[Tensor, "n d"], metric: Metric, groups: Int64[Tensor, "n"], n_groups: int
) -> Float[Tensor, "g d"]:
    """The mean of the rows of each group; NaN for an empty one, and rows of −1 are left out."""
    if not n_groups:
        return torch.zeros(0, features.shape[1], dtype=torch.float64)
    sums, counts = group_sums(Rows(features, metric), groups, n_groups)
    return sums / counts[:, None]
