"""New clusters from a clustering and a person's answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from shoal.clustering.linear import LinearHead
from shoal.clustering.rows import Metric
from shoal.errors import UserError
from shoal.learning.answers import NOWHERE, UNKNOWN, Answer, Answers
from shoal.learning.evidence import Evidence
from shoal.learning.graph import Coordinates, Graph
from shoal.learning.head import fit_head
from shoal.learning.smoothing import smooth


@dataclass(frozen=True)
class Variant:
    """How answers are read; see ``Evidence.shares``."""

    trust: float
    """How many answers in each class the clustering is worth."""
    damping: float
    hard: bool
    """Whether a row is first given to its likeliest class, or to all by their shares."""


VARIANTS = (
    Variant(3.0, 0.5, True),
    Variant(10.0, 0.5, True),
    Variant(3.0, 0.5, False),
    Variant(0.0, 0.5, True),
    Variant(0.0, 0.0, True),
)
"""Variants averaged with the clustering itself, weighted by how well they predict held-out answers."""

FOLDS = 5
LEAST_ANSWERS = 2
SURPRISE = 0.2
"""Share of answers that any variant is taken to be wrong about, so that none is ruled out by a few."""

ENOUGH = 5
"""Answers for each cluster, on average, from which on it need not be certain that they predict more than it does."""

_DECIDED = 65_536  # rows that are decided about at a time
_KEPT = torch.eye(len(VARIANTS) + 1)[-1]


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of the answers."""

    labels: Int64[Tensor, "n"]
    """The cluster of each row, −1 for none. Numbers of clusters are as before; new ones come after them."""
    confidence: Float32[Tensor, "n"]
    """Probability of that cluster; 1 for answered rows, 0 for those that belong nowhere."""
    margin: Float32[Tensor, "n"]
    """By how much it exceeds the next cluster's, which ``choose_questions`` takes."""
    model: LinearHead
    """For new rows."""
    used: str
    """How it was learned, in a sentence for the person."""
    changed: int
    """Rows whose cluster is another than before."""


def learn(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    answers: Iterable[Answer],
    *,
    metric: Metric,
    graph: Graph | None = None,
    smoothing: bool = True,
    seed: int = 0,
) -> Learned:
    """Learn from answers; in a second for 10 000 rows, once there is a graph.

    First the clustering is spread over the neighbour graph from the centres of its clusters (``smooth``), unless
    answers speak against it. The answers spread over the graph as well; what arrives is weighed against the clustering,
    each cluster being as trustworthy as the answers in it say; and a linear head is fitted to the labels that follow,
    and to the answers. This is done in five ways, which trust the clustering more or less. They and the clustering
    itself decide together, each with the likelihood of answers that it was not told as its weight. Of fewer than five
    answers for each cluster clearly more have to be predicted than by the clustering, which is kept otherwise.

    Answered rows have their answers. Rows without a cluster (−1) stay without, unless an answer gives them one, and no
    other row is sent nowhere. A cluster about which nothing was asked keeps its rows as examples.

    Args:
        features: what was clustered, in memory or as a memory map.
        labels: present cluster of each row, −1 for none.
        answers: of several about a row the last counts.
        metric: of the features.
        graph: ``Graph.build(features, metric)``, if it is there already.
        smoothing: whether to spread the clustering first; not where it was learned, as those
            of TEMI and of trained networks are.
        seed: of the graph, and of what is held out.

    Raises:
        UserError: labels, answers or a graph that do not fit; no row that has a cluster; NaN, infinity, a zero row
            under the cosine.
    """
    if labels.shape != (len(features),):
        raise UserError(f"labels have shape {tuple(labels.shape)}: give one for each of the {len(features)} rows.")
    graph = graph or Graph.build(features, metric, seed=seed)
    graph.check(features)
    if graph.coordinates.metric != metric:
        raise UserError(f"the graph is of the metric {graph.coordinates.metric}, not {metric}: build it anew.")
    before = labels = labels.cpu()
    told = Answers.of(answers, len(labels))
    if not (labels >= 0).any() and not (told.clusters >= 0).any():
        raise UserError("no row has a cluster and no answer names one: give labels or answers from 0 on.")
    evidence = Evidence.of(features, labels, told, graph)
    smoothed = _smoothed(evidence, labels) if smoothing else None
    if smoothed is not None:
        labels, evidence = smoothed, replace(evidence, start=smoothed[evidence.rows])
    weights, note = _weighed(evidence, seed)
    if not torch.equal(labels, before):
        note = f"The clustering was smoothed over neighbouring images. {note}"
    everything = torch.ones(len(evidence.known), dtype=torch.bool)
    average = _average(evidence, everything, weights)
    found = _decided(features, labels, told, average)
    head = average.heads[0] if average.keep else fit_head(evidence.given(everything), _nodes(evidence, average))
    model = _model(graph.coordinates, *head)
    return Learned(*found, model, note, int((found[0] != before).sum()))


def _smoothed(evidence: Evidence, labels: Int64[Tensor, "n"]) -> Int64[Tensor, "n"] | None:
    """The clustering spread over the graph; None where it is then right about fewer answers, or there are too few."""
    if len(evidence.known) < LEAST_ANSWERS:
        return None
    graph, m = evidence.graph, len(evidence.graph.rows)
    start = torch.cat([smooth(evidence.start[:m], evidence.z[:m], graph), evidence.start[m:]])
    now, before = ((each[evidence.known] == evidence.classes).sum() for each in (start, evidence.start))
    if now < before:
        return None
    found = labels.clone()
    found[graph.rows] = start[:m]
    return found


@dataclass(frozen=True, eq=False)
class _Average:
    """A head for each variant, in the coordinates of the graph, and the opinion of the clusters, each with a weight."""

    coordinates: Coordinates
    weights: Float32[Tensor, "w"]
    """Of the variants, and last of the clustering."""
    heads: Sequence[tuple[Float32[Tensor, "k c"], Float32[Tensor, "k"]]]
    opinion: Float32[Tensor, "before1 k"]
    """P(class | cluster); last of rows without a cluster."""
    keep: bool
    """Whether the clustering has all the weight: rows stay where they are, and a head and what the answers say of
    their clusters tell, as equals, how sure that is."""

    def each(self, z: Float32[Tensor, "b c"], before: Int64[Tensor, "b"]) -> list[Float32[Tensor, "b k"]]:
        """Probabilities by each variant and by the clustering, of rows in the coordinates, given their clusters."""
        return [torch.addmm(bias, z, weight.T).softmax(1) for weight, bias in self.heads] + [self.opinion[before]]

    def shares(self, z: Float32[Tensor, "b c"], before: Int64[Tensor, "b"]) -> Float32[Tensor, "b k"]:
        """Their average."""
        found = torch.zeros(len(z), self.opinion.shape[1])
        for weight, each in zip(self.weights.tolist(), self.each(z, before), strict=True):
            found.add_(each, alpha=weight)
        return found


def _average(evidence: Evidence, told: Bool[Tensor, "a"], weights: Float32[Tensor, "w"]) -> _Average:
    """Fit a head for each variant to some of the answers, or where the clustering has all the weight, one to it."""
    opinion, given = evidence.opinion(told), evidence.given(told)
    keep = bool(weights[-1] == 1)
    heads: list[tuple[Tensor, Tensor]] = []
    if keep:
        # A head is surer than it should be, also of what the clustering, which is kept, speaks against.
        heads, weights = [fit_head(given, evidence.prior(opinion))], torch.tensor([0.5, 0.5])
    else:
        arrived = evidence.arrived(told)
        for variant in VARIANTS:
            shares = evidence.shares(arrived, opinion, evidence.trusted(variant.trust, told), variant.damping)
            if variant.hard:
                shares = torch.zeros_like(shares).scatter_(1, shares.argmax(1, keepdim=True), 1)
            heads.append(fit_head(given, shares))
    even = torch.full((1, evidence.n_classes), 1 / evidence.n_classes)
    return _Average(evidence.graph.coordinates, weights, heads, torch.cat([opinion, even]), keep)


def _weighed(evidence: Evidence, seed: int) -> tuple[Float32[Tensor, "w"], str]:
    """The weight of each variant and of the clustering, and what is to be said of it.

    Each is weighed by the likelihood of answers that it is not told, Π_i ((1 − s) · p_i + s / k): Bayesian averaging,
    where a variant has to predict more answers than the clustering to outweigh it.
    """
    known, classes, k = evidence.known, evidence.classes, evidence.n_classes
    n_known = len(known)
    equal = torch.zeros(len(VARIANTS) + 1)
    if n_known < LEAST_ANSWERS:
        answers = "1 answer names" if n_known == 1 else f"{n_known} answers name"
        return _KEPT, f"{answers} a cluster: too few to learn from, so the clustering is kept."
    predicted = torch.empty(len(equal), n_known, k)
    folds = torch.randperm(n_known, generator=torch.Generator().manual_seed(seed)) % min(FOLDS, n_known)
    for fold in range(int(folds.max()) + 1):
        held_out = folds == fold
        rows = known[held_out]
        found = _average(evidence, ~held_out, equal).each(evidence.z[rows], evidence.start[rows])
        predicted[:, held_out] = torch.stack(found)
    likelihood = predicted.gather(2, classes.expand(len(equal), -1)[:, :, None])[:, :, 0]
    weights = ((1 - SURPRISE) * likelihood + SURPRISE / k).log().double().sum(1).softmax(0).float()
    right, kept = (each.argmax(1) == classes for each in (torch.tensordot(weights, predicted, 1), predicted[-1]))
    gain = int(right.sum()) - int(kept.sum())
    # Were both as good, the difference would have the variance of the answers that one of them alone predicts.
    if n_known < ENOUGH * evidence.n_before and max(gain, 0) ** 2 <= int((right ^ kept).sum()):
        return _KEPT, (
            f"The clustering is right about {int(kept.sum())} of {n_known} answers, and spreading them does not "
            "predict clearly more: it is kept until there are more answers."
        )
    return weights, (
        f"Spread from {n_known} answers: {int(right.sum())} of them are predicted when they are left out in turn, "
        f"{int(kept.sum())} by the clustering alone."
    )


def _decided(
    features: Float[Tensor, "n d"], before: Int64[Tensor, "n"], told: Answers, average: _Average
) -> tuple[Int64[Tensor, "n"], Float32[Tensor, "n"], Float32[Tensor, "n"]]:
    """Label, confidence and margin of all rows."""
    labels, confidence, margin = before.clone(), torch.zeros(len(before)), torch.zeros(len(before))
    for start in range(0, len(before), _DECIDED):
        part = slice(start, start + _DECIDED)
        mine = (before[part] >= 0).nonzero()[:, 0]
        shares = average.shares(average.coordinates.of(features[part]), before[part])[mine]
        found = _read(shares, before[part][mine] if average.keep else None)
        for whole, value in zip((labels, confidence, margin), found, strict=True):
            whole[part][mine] = value
    sure = told.clusters != UNKNOWN
    rows = told.rows[sure]
    labels[rows] = told.clusters[sure]
    confidence[rows] = margin[rows] = (told.clusters[sure] >= 0).float()
    if len(told.ruled_out):
        rows, out = torch.unique(told.rows[told.ruled_out[:, 0]], return_inverse=True)
        shares = average.shares(average.coordinates.of(features[rows.to(features.device)]), before[rows])
        inside = told.ruled_out[:, 1] < shares.shape[1]
        shares[out[inside], told.ruled_out[inside, 1]] = 0
        shares /= shares.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        kept = before[rows].clamp(min=0)  # a row that had no cluster gets none below
        allowed = shares.gather(1, kept[:, None])[:, 0] > 0
        found = _read(shares, kept.where(allowed, shares.argmax(1)) if average.keep else None)
        # Where all are ruled out, or the row had none, it belongs nowhere.
        nowhere = (before[rows] < 0) | ~shares.any(1)
        labels[rows] = found[0].where(~nowhere, NOWHERE)
        confidence[rows], margin[rows] = (each.where(~nowhere, 0.0) for each in found[1:])
    return labels, confidence, margin


def _nodes(evidence: Evidence, average: _Average) -> Float32[Tensor, "m k"]:
    """The likeliest class of each node, to which the head for new rows is fitted."""
    shares = average.shares(evidence.z, evidence.start)
    shares[evidence.ruled_out[:, 0], evidence.ruled_out[:, 1]] = 0
    return torch.zeros_like(shares).scatter_(1, shares.argmax(1, keepdim=True), 1)


def _model(coordinates: Coordinates, weight: Float32[Tensor, "k c"], bias: Float32[Tensor, "k"]) -> LinearHead:
    """A head as an estimator of the features themselves."""
    model = LinearHead(len(bias), metric=coordinates.metric)
    model.n_features_in_ = len(coordinates.mean)
    model.mean_, model.weight_, model.bias_ = coordinates.mean, weight @ coordinates.axes.T, bias
    return model


def _read(
    shares: Float32[Tensor, "b k"], kept: Int64[Tensor, "b"] | None = None
) -> tuple[Int64[Tensor, "b"], Float32[Tensor, "b"], Float32[Tensor, "b"]]:
    """The most probable class of each row, or the one that is kept, its probability, and how much that exceeds others.

    Where others are more probable than the one that is kept, that is 0.
    """
    labels = shares.argmax(1) if kept is None else kept
    confidence = shares.gather(1, labels[:, None])[:, 0]
    others = shares.scatter(1, labels[:, None], 0).amax(1)
    return labels, confidence, (confidence - others).clamp(min=0)
