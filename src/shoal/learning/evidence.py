"""What is known of the rows of the graph: their clusters, and the answers about some of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from shoal.learning.answers import UNKNOWN, Answers
from shoal.learning.graph import Graph
from shoal.learning.head import Given
from shoal.learning.spreading import spread

CONFUSED = 3.0
"""Answers in a cluster that outweigh what it was taken for."""

_ENTRY = 5  # nearest rows of the graph among which an answer about a row outside it is divided
_DECIDING = 1e-6
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rows of the graph and answered rows outside it, called nodes, and what is known of them."""

    graph: Graph
    rows: Int64[Tensor, "m"]
    """Of the features."""
    z: Float32[Tensor, "m c"]
    start: Int64[Tensor, "m"]
    """Their clusters, −1 for none."""
    belongs: Bool[Tensor, "m"]
    known: Int64[Tensor, "a"]
    """Nodes whose answer is a class."""
    classes: Int64[Tensor, "a"]
    ruled_out: Int64[Tensor, "r 2"]
    n_before: int
    n_classes: int

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], told: Answers, graph: Graph) -> Evidence:
        """Put it together."""
        outside = told.rows[~torch.isin(told.rows, graph.rows)]
        nodes = torch.cat([graph.rows, outside])
        x = features if len(nodes) == len(features) else features[nodes.to(features.device)]
        place = torch.empty(len(labels), dtype=torch.int64)
        place[nodes] = torch.arange(len(nodes))
        answered = place[told.rows]
        start = labels[nodes]
        belongs = start >= 0
        belongs[answered] = torch.where(told.clusters == UNKNOWN, belongs[answered], told.clusters >= 0)
        is_class = told.clusters >= 0
        n_before = int(labels.max()) + 1
        highest = max(int(told.clusters.max()) if len(told) else -1, n_before - 1)
        out = told.ruled_out[told.ruled_out[:, 1] <= highest]
        return cls(
            graph,
            nodes,
            graph.coordinates.of(x),
            start,
            belongs,
            answered[is_class],
            told.clusters[is_class],
            torch.stack([answered[out[:, 0]], out[:, 1]], 1),
            n_before,
            highest + 1,
        )

    def given(self, told: Bool[Tensor, "a"]) -> Given:
        """What the head is fitted to with some of the answers; rows with others are as if nothing were known."""
        belongs = self.belongs.clone()
        belongs[self.known[~told]] = self.start[self.known[~told]] >= 0
        known, classes = self.known[told], self.classes[told]
        return Given.of(self.z, belongs, known, classes, self.n_classes, self.ruled_out)

    def opinion(self, told: Bool[Tensor, "a"]) -> Float32[Tensor, "before k"]:
        """P(class | cluster) by the answers told: each cluster is what it was, unless its answers say otherwise."""
        counts = torch.zeros(self.n_before, self.n_classes)
        counts.fill_diagonal_(CONFUSED)
        inside = told & (self.start[self.known] >= 0)
        pairs = self.start[self.known[inside]], self.classes[inside]
        counts.index_put_(pairs, torch.ones(len(pairs[0])), accumulate=True)
        return counts / counts.sum(1, keepdim=True)

    def prior(self, opinion: Float32[Tensor, "before k"]) -> Float32[Tensor, "m k"]:
        """The opinion about each node's cluster; nothing for a node without."""
        found = torch.zeros(len(self.start), self.n_classes)
        inside = self.start >= 0
        found[inside] = opinion[self.start[inside]]
        return found

    def trusted(self, trust: float, told: Bool[Tensor, "a"]) -> float:
        """Weight of the clustering against the answers told: λ = t·k / (t·k + m)."""
        worth = trust * max(1, self.n_before)
        return worth / max(1.0, worth + int(told.sum()))

    def arrived(self, told: Bool[Tensor, "a"]) -> Float32[Tensor, "m k"]:
        """What arrives at each node from the answers of each class, as a share of all that comes from there.

        Of a class without answers the rows of its cluster are the examples.
        """
        n_graph = len(self.graph.rows)
        found = torch.zeros(len(self.start), self.n_classes)
        inside = (self.start >= 0).nonzero()[:, 0]
        found[inside, self.start[inside]] = 1
        answered = torch.unique(self.classes[told])
        sources = torch.zeros(n_graph, len(answered))
        columns = torch.searchsorted(answered, self.classes[told])
        nodes, shares = self._entries
        nodes, shares = nodes[told], shares[told]
        sources.index_put_((nodes, columns[:, None].expand_as(nodes)), shares, accumulate=True)
        found[:, answered] = 0
        found[:n_graph, answered] = torch.from_numpy(spread(self.graph.similarities, sources.numpy()))
        return found / found.sum(0).clamp(min=_TINY)

    def shares(
        self,
        arrived: Float32[Tensor, "m k"],
        opinion: Float32[Tensor, "before k"],
        weight: float,
        damping: float,
    ) -> Float32[Tensor, "m k"]:
        """(1 − λ) · what arrives + λ · the opinion of each node's cluster, as shares of the classes.

        What comes from a class is scaled to the class's size, lest one with many answers flood the others (class mass
        normalisation, Zhu, Ghahramani and Lafferty 2003). Sizes are those of the clusters, with what the answers say of
        them, to the power of ``damping``: 0 takes them for equal, as deep clusterings do.
        """
        sizes = torch.bincount(self.start[self.start >= 0], minlength=self.n_before).float() @ opinion
        found = arrived * sizes.pow(damping).where(sizes > 0, 0.0)
        found /= found.sum(1, keepdim=True).clamp(min=_TINY)
        weight = max(weight, _DECIDING)  # where nothing arrives
        found = found.mul_(1 - weight).add_(self.prior(opinion), alpha=weight)
        found[self.ruled_out[:, 0], self.ruled_out[:, 1]] = 0
        return found / found.sum(1, keepdim=True).clamp(min=_TINY)

    @cached_property
    def _entries(self) -> tuple[Int64[Tensor, "a e"], Float32[Tensor, "a e"]]:
        """Where in the graph each answer enters and with what share: its own row, or the nearest ones."""
        n_graph = len(self.graph.rows)
        e = min(_ENTRY, n_graph)
        nodes = self.known[:, None].repeat(1, e)
        shares = torch.zeros(len(nodes), e)
        shares[:, 0] = 1
        outside = (self.known >= n_graph).nonzero()[:, 0]
        for part in torch.split(outside, 64):
            apart = torch.cdist(self.z[self.known[part]], self.z[:n_graph])
            nodes[part] = apart.topk(e, largest=False).indices
            shares[part] = 1 / e
        return nodes, shares
