"""A card for each cluster: how large it is, what it holds, its most central and its most doubtful images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.report.thumbnails import thumbnail_uri
from shoal.types import Clustering, Images

PIXEL_BUDGET = 2_000_000
"""Pixels of all cards together: about 1 MB of page."""


@dataclass(frozen=True)
class Thumb:
    """A picture, what it says of itself, and whether its class is another than its cluster's majority."""

    uri: str
    text: str
    stray: bool


@dataclass(frozen=True)
class Card:
    """A cluster. ``majority`` is empty without labels; ``purity`` is the majority's share of the labelled."""

    cluster: int
    size: int
    share: float
    majority: str
    purity: float
    central: Sequence[Thumb]
    doubtful: Sequence[Thumb]


@dataclass(frozen=True)
class Plan:
    """How much of each cluster a page shows. With a ``lead`` the most central image stands large."""

    central: int
    doubtful: int
    lead: bool
    per_page: int

    @classmethod
    def of(cls, k: int) -> Plan:
        """Three rows of six and one of doubtful images, two and one, or a single row of four."""
        if k <= 30:
            return cls(central=15, doubtful=6, lead=True, per_page=30)
        if k <= 120:
            return cls(central=9, doubtful=6, lead=True, per_page=30)
        return cls(central=3, doubtful=1, lead=False, per_page=60)


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images, how they were clustered, and how much farther than the own the second centre is."""

    images: Images
    clustering: Clustering
    margins: Float[Tensor, "n"]

    def pages(self) -> list[list[Card]]:
        """Make the cards of all clusters, empty ones too."""
        members = self.members()
        plan = Plan.of(len(members))
        cards = [self._card(cluster, own, plan) for cluster, own in enumerate(members)]
        return [cards[i : i + plan.per_page] for i in range(0, len(cards), plan.per_page)]

    def members(self) -> list[Int64[Tensor, "_"]]:
        """For each cluster the indices of its images, the most central first."""
        labels = self.clustering.labels
        inwards = torch.argsort(self.clustering.distances, stable=True)
        grouped = inwards[torch.argsort(labels[inwards], stable=True)]
        sizes = torch.bincount(labels + 1, minlength=len(self.clustering.centers) + 1)
        return list(torch.split(grouped, sizes.tolist())[1:])

    def _card(self, cluster: int, own: Int64[Tensor, "m"], plan: Plan) -> Card:
        labels = self.images.labels[own]
        known = labels[labels >= 0]
        counts = torch.bincount(known)
        majority = int(counts.argmax()) if len(known) else -1
        central, rest = own[: plan.central], own[plan.central :]
        # Between one cluster and no other there is no doubt.
        n_doubtful = plan.doubtful if len(self.clustering.centers) > 1 else 0
        doubtful = rest[torch.argsort(self.margins[rest], stable=True)[:n_doubtful]]
        return Card(
            cluster=cluster,
            size=len(own),
            share=len(own) / max(1, int((self.clustering.labels >= 0).sum())),
            majority=class_name(self.images, majority),
            purity=float(counts.max()) / len(known) if len(known) else 0.0,
            central=[self._thumb(i, majority, plan, large=not place) for place, i in enumerate(central.tolist())],
            doubtful=[self._thumb(i, majority, plan) for i in doubtful.tolist()],
        )

    def _thumb(self, i: int, majority: int, plan: Plan, *, large: bool = False) -> Thumb:
        label = int(self.images.labels[i])
        name = class_name(self.images, label)
        edge = self._edge(plan) * (2 if large and plan.lead else 1)
        text = f"{self.images.ids[i]} · {name}" if name else self.images.ids[i]
        return Thumb(
            thumbnail_uri(self.images.pixels[i], edge),
            text,
            stray=-1 not in (label, majority) and label != majority,
        )

    def _edge(self, plan: Plan) -> int:
        n_thumbs = len(self.clustering.centers) * (plan.central + plan.doubtful)
        return min(64, max(24, math.isqrt(PIXEL_BUDGET // n_thumbs)))


def class_name(images: Images, label: int) -> str:
    """Name a class: its number if it has no name, nothing for -1."""
    if label < 0:
        return ""
    return images.classes[label] if label < len(images.classes) else str(label)
