"""New clusters from a clustering and a person's answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from shoal.clustering.linear import LinearHead
from shoal.clustering.rows import Metric
from shoal.errors import UserError
from shoal.learning.answers import NOWHERE, UNKNOWN, Answer, Answers
from shoal.learning.evidence import Evidence
from shoal.learning.graph import Coordinates, Graph
from shoal.learning.head import Given, fit_head

TRUSTS = (3.0, 10.0, None, 1.0)
"""How many answers in each class the clustering is worth: what is tried, in order of preference. None: it is kept."""

FOLDS = 5
LEAST_ANSWERS = 2
_DECIDED = 65_536  # rows that are decided about at a time
_FLOOR = 1e-6  # of a probability that is multiplied with others
_NEVER = -1e9  # the logit of what was ruled out


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
    seed: int = 0,
) -> Learned:
    """Learn from answers; in a second for 10 000 rows, once there is a graph.

    The answers spread over the neighbour graph; what arrives is weighed against the clustering, each cluster being as
    trustworthy as the answers in it say; a linear head is fitted to the labels that follow, and to the answers; and the
    head decides with the clustering about all rows. How far the clustering is trusted is chosen by what the answers say
    of rows that were held out; if it is itself right about most of them, it is kept but for the answered rows.

    Answered rows have their answers. Rows without a cluster (−1) stay without, unless an answer gives them one, and no
    other row is sent nowhere. A cluster about which nothing was asked keeps its rows as examples.

    Args:
        features: what was clustered, in memory or as a memory map.
        labels: present cluster of each row, −1 for none.
        answers: of several about a row the last counts.
        metric: of the features.
        graph: ``Graph.build(features, metric)``, if it is there already.
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
    labels = labels.cpu()
    told = Answers.of(answers, len(labels))
    if not (labels >= 0).any() and not (told.clusters >= 0).any():
        raise UserError("no row has a cluster and no answer names one: give labels or answers from 0 on.")
    evidence = Evidence.of(features, labels, told, graph)
    trust, note = _chosen(evidence, seed)
    return _decided(features, labels, told, _fitted(evidence, trust), note)


@dataclass(frozen=True, eq=False)
class _Decision:
    """A head in the coordinates of the graph, and what the clustering adds to its logits."""

    coordinates: Coordinates
    weight: Float32[Tensor, "k c"]
    bias: Float32[Tensor, "k"]
    bonus: Float32[Tensor, "before1 k"]
    """λ/2 · log P(class | cluster) for rows of each cluster; the last, for rows without one, nothing."""
    keep: bool
    """Whether rows stay in their clusters."""

    def logits(self, z: Float32[Tensor, "b c"], before: Int64[Tensor, "b"]) -> Float32[Tensor, "b k"]:
        """Of rows in the coordinates, given their clusters."""
        return torch.addmm(self.bias, z, self.weight.T).add_(self.bonus[before])

    def head(self) -> LinearHead:
        """As an estimator of the features themselves."""
        mean, axes = self.coordinates.mean, self.coordinates.axes
        model = LinearHead(len(self.bias), metric=self.coordinates.metric)
        model.n_features_in_ = len(mean)
        model.mean_, model.weight_, model.bias_ = mean, self.weight @ axes.T, self.bias
        return model


def _chosen(evidence: Evidence, seed: int) -> tuple[float | None, str]:
    """The trust in the clustering by which most held-out answers are right, and what is to be said of it."""
    known, classes = evidence.known, evidence.classes
    n_known = len(known)
    counts = evidence.represented.sqrt()
    kept = float(counts[evidence.start[known] == classes].sum())
    if n_known < LEAST_ANSWERS:
        return None, f"{n_known} answers name a cluster: too few to learn from, so the clustering is kept."
    right = dict.fromkeys(TRUSTS, 0.0)
    folds = torch.randperm(n_known, generator=torch.Generator().manual_seed(seed)) % min(FOLDS, n_known)
    for fold in range(int(folds.max()) + 1):
        told = folds != fold
        held_out = known[~told]
        opinion = evidence.opinion(told)
        arrived, given = evidence.arrived(told, opinion), evidence.given(told)
        for trust in TRUSTS:
            if trust is not None:
                decision = _decision(evidence, trust, told, opinion, arrived, given)
                logits = decision.logits(evidence.z[held_out], evidence.start[held_out])
                right[trust] += float(counts[~told][logits.argmax(1) == classes[~told]].sum())
    right[None] = kept
    best = max(TRUSTS, key=lambda trust: right[trust])  # of equals the first
    way = "the clustering is kept" if best is None else "they are spread over the neighbour graph, and a head is fitted"
    shares = [value / float(counts.sum()) for value in (right[best], kept)]
    foreseen = "{:.0%} of the images are estimated to be right, {:.0%} in the clustering alone".format(*shares)
    return best, f"By {n_known} answers that name a cluster {foreseen}: {way}."


def _fitted(evidence: Evidence, trust: float | None) -> _Decision:
    """The head by all answers."""
    told = torch.ones(len(evidence.known), dtype=torch.bool)
    opinion = evidence.opinion(told)
    arrived = None if trust is None else evidence.arrived(told, opinion)
    return _decision(evidence, trust, told, opinion, arrived, evidence.given(told))


def _decision(
    evidence: Evidence,
    trust: float | None,
    told: Bool[Tensor, "a"],
    opinion: Float32[Tensor, "before k"],
    arrived: Float32[Tensor, "m k"] | None,
    given: Given,
) -> _Decision:
    """Fit a head to (1 − λ) · what arrives + λ · the opinion of the clusters, or to the clusters themselves."""
    before = torch.zeros(1, evidence.n_classes)
    if trust is None or arrived is None:
        labels, bonus = evidence.start.clamp(min=0), torch.zeros(len(opinion) + 1, evidence.n_classes)
    else:
        weight = evidence.trusted(trust, told)
        shares = evidence.prior(opinion).mul_(max(weight, _FLOOR)).add_(arrived, alpha=1 - weight)
        shares[evidence.ruled_out[:, 0], evidence.ruled_out[:, 1]] = 0
        labels = shares.argmax(1)
        bonus = torch.cat([opinion.clamp(min=_FLOOR).log() * (weight / 2), before])
    return _Decision(evidence.graph.coordinates, *fit_head(given, labels), bonus, keep=trust is None)


def _decided(
    features: Float[Tensor, "n d"], before: Int64[Tensor, "n"], told: Answers, decision: _Decision, note: str
) -> Learned:
    """The result for all rows."""
    labels, confidence, margin = before.clone(), torch.zeros(len(before)), torch.zeros(len(before))
    open_rows = before >= 0
    open_rows[told.rows] = False
    for start in range(0, len(before), _DECIDED):
        part = slice(start, start + _DECIDED)
        logits = decision.logits(decision.coordinates.of(features[part]), before[part])
        mine = open_rows[part].nonzero()[:, 0]
        found = _read(logits[mine], before[part][mine] if decision.keep else None)
        for whole, value in zip((labels, confidence, margin), found, strict=True):
            whole[part][mine] = value
    _answer(features, before, told, decision, (labels, confidence, margin))
    changed = int((labels != before).sum())
    return Learned(labels, confidence, margin, decision.head(), note, changed)


def _answer(
    features: Float[Tensor, "n d"],
    before: Int64[Tensor, "n"],
    told: Answers,
    decision: _Decision,
    results: tuple[Int64[Tensor, "n"], Float32[Tensor, "n"], Float32[Tensor, "n"]],
) -> None:
    """Put what the answers say into the results."""
    labels, confidence, margin = results
    sure = told.clusters != UNKNOWN
    rows = told.rows[sure]
    labels[rows] = told.clusters[sure]
    confidence[rows] = margin[rows] = (told.clusters[sure] >= 0).float()
    rows = told.rows[~sure]
    if not len(rows):
        return
    place = torch.full((len(told),), -1).masked_scatter(~sure, torch.arange(len(rows)))
    logits = decision.logits(decision.coordinates.of(features[rows.to(features.device)]), before[rows])
    out = told.ruled_out[told.ruled_out[:, 1] < logits.shape[1]]
    logits[place[out[:, 0]], out[:, 1]] = -torch.inf
    own = logits.gather(1, before[rows].clamp(min=0)[:, None])[:, 0]
    # A cluster that is kept is kept unless it is ruled out; where all are, or the row had none, it belongs nowhere.
    stays = decision.keep & torch.isfinite(own)
    found = _read(logits.nan_to_num(neginf=_NEVER))
    labels[rows] = torch.where(stays, before[rows], found[0])
    confidence[rows], margin[rows] = found[1:]
    nowhere = rows[(before[rows] < 0) | torch.isinf(logits).all(1)]
    labels[nowhere], confidence[nowhere], margin[nowhere] = NOWHERE, 0, 0


def _read(
    logits: Float32[Tensor, "b k"], own: Int64[Tensor, "b"] | None = None
) -> tuple[Int64[Tensor, "b"], Float32[Tensor, "b"], Float32[Tensor, "b"]]:
    """The most probable class of each row, or its own one; its probability, and by how much that exceeds the next."""
    shares = logits.softmax(1)
    labels = shares.argmax(1) if own is None else own
    confidence = shares.gather(1, labels[:, None])[:, 0]
    others = shares.scatter(1, labels[:, None], 0).amax(1)
    return labels, confidence, (confidence - others).clamp(min=0)
