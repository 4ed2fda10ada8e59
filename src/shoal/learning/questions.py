"""Which images to ask a person about: first those that stand for many, then the doubtful ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.functional import normalize

from shoal.clustering.kmeans.restarts import assign, kmeans
from shoal.clustering.parameters import check_counts
from shoal.clustering.rows import Metric, Rows, squared_distances, subsample
from shoal.errors import UserError
from shoal.learning.graph import Graph

N_CANDIDATES = 5
TYPICAL_PER_CLUSTER = 3
MIXED_PER_CLUSTER = 10
"""Up to this many questions for each cluster all are typical, then up to this many every other one."""

MOST_TYPICAL = 300
"""Questions after which all are doubtful, however many clusters there are."""

LEAST = 1e-6
"""Of what a logarithm is taken: a margin or a cosine of 1 would give −∞, and beyond it, by rounding, NaN."""

_GROUPED = 10_000  # rows that are grouped for typical questions
_EQUAL = 1e-12  # squared distance of neighbours that are taken for one image


@dataclass(frozen=True)
class Question:
    """Which of these clusters is the image in? ``row`` is that of the features."""

    row: int
    candidates: tuple[int, ...]
    """The five nearest clusters, nearest first."""
    reason: Literal["typical", "doubtful"]
    stands_for: int
    """Share of the images that a typical one stands for, as their number; 1 for a doubtful one."""


def choose_questions(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    centers: Float[Tensor, "k d"],
    graph: Graph,
    *,
    n_questions: int,
    asked: Sequence[int] = (),
    margin: Float[Tensor, "n"] | None = None,
    seed: int = 0,
) -> list[Question]:
    """The next questions, the most useful first; none that was asked before.

    The first three for each cluster, and every other one up to ten, are typical: k-means forms as many groups as there
    are questions asked and to ask, and of the groups in which nothing was asked, the largest first, the row nearest to
    the centre is asked about (Hacohen, Dekel and Weinshall 2022, arXiv 2202.02794, TypiClust, which takes the densest
    instead). The others are doubtful (``most_valuable``). Of more than 50 000 rows those in the graph are asked about,
    and groups are formed of at most 10 000. Questions that are chosen in one lot differ from each other.

    Args:
        features: what was clustered.
        labels: present cluster of each row; rows with −1 belong nowhere and are not asked about.
        centers: present centres, of clusters without rows too.
        graph: of the features; its metric is the metric.
        n_questions: how many to choose; fewer are returned if there are no more rows.
        asked: rows of all earlier questions, also of those that were skipped.
        margin: how much more probable each row's cluster is than the next, ``Learned.margin``, once something was
            learned; before that the difference of the cosines to the two nearest centres.
        seed: the same questions for the same seed and answers.

    Raises:
        UserError: sizes that do not fit; a number of questions below 1.
    """
    check_counts(n_questions=n_questions)
    graph.check(features)
    if labels.shape != (graph.n,) or (margin is not None and margin.shape != (graph.n,)):
        raise UserError(f"labels and margin must have a value for each of the {graph.n} rows of features.")
    if centers.ndim != 2 or not len(centers) or centers.shape[1] != features.shape[1]:
        raise UserError(f"the centres are {tuple(centers.shape)}: give (k, {features.shape[1]}), at least one.")
    earlier = torch.tensor(sorted(set(asked)), dtype=torch.int64)
    if len(earlier) and not 0 <= int(earlier[0]) <= int(earlier[-1]) < graph.n:
        raise UserError(f"asked holds rows beyond the {graph.n} of features: give numbers below {graph.n}.")
    z = graph.coordinates.of(features[graph.rows.to(features.device)])
    before = torch.isin(graph.rows, earlier)
    open_rows = ~before & (labels.cpu()[graph.rows] >= 0)
    typical = _typical(z, before, open_rows, _n_typical(len(earlier), n_questions, len(centers)), seed)
    open_rows[[place for place, _ in typical]] = False
    n_doubtful = min(n_questions - len(typical), int(open_rows.sum()))
    doubtful: list[int] = []
    if n_doubtful:
        apart = _margins(z, centers, graph) if margin is None else margin.cpu()[graph.rows]
        value = density(graph.distances) + hardness(apart)
        first = before.clone()
        first[[place for place, _ in typical]] = True
        doubtful = most_valuable(z, value, first, open_rows, n_doubtful)
    places = [place for place, _ in typical] + doubtful
    rows = graph.rows[places]
    near = _candidates(features[rows.to(features.device)], centers, graph.coordinates.metric)
    sizes = [size for _, size in typical] + [1] * len(doubtful)
    return [
        Question(row, tuple(own), "typical" if i < len(typical) else "doubtful", size)
        for i, (row, own, size) in enumerate(zip(rows.tolist(), near.tolist(), sizes, strict=True))
    ]


def _n_typical(n_earlier: int, n_questions: int, n_clusters: int) -> int:
    """How many of the next questions are typical."""
    whole, mixed = (min(each * n_clusters, MOST_TYPICAL) for each in (TYPICAL_PER_CLUSTER, MIXED_PER_CLUSTER))
    numbers = range(n_earlier, n_earlier + n_questions)
    return sum(number < whole or (number < mixed and number % 2 == 0) for number in numbers)


def hardness(margin: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """a_i = log(1 − (s_(1) − s_(2))) of IDC, 0 on the border of two clusters: the two largest similarities' difference.

    "Interactive Deep Clustering via Value Mining" (IDC, NeurIPS 2024). There s are cosines to the
    means of clusters, and 1 − margin can be negative; here it is at least 1e-6.
    """
    return (1 - margin).clamp(min=LEAST).log()


def density(distances: Float[Tensor, "n j"]) -> Float[Tensor, "n"]:
    """r_i = log(1 / mean_j ‖x_i − x_j‖²) of IDC over the 20 nearest, which are the row itself and 19 of its neighbours.

    Rows with equal neighbours alone count as if they were 1e-6 apart, so that copies are not asked about first of all.
    """
    squared = distances[:, :19].double().square()
    mean = squared.sum(1) / (squared.shape[1] + 1)
    typical = mean[mean > _EQUAL].median() if (mean > _EQUAL).any() else mean.new_ones(())
    return -torch.where(mean > _EQUAL, mean, typical).log().float()


def most_valuable(
    x: Float[Tensor, "n d"],
    value: Float[Tensor, "n"],
    asked: Bool[Tensor, "n"],
    open_rows: Bool[Tensor, "n"],
    n_questions: int,
) -> list[int]:
    """Rows of the largest value, one after another, unlike those asked about before them.

    To the value of a row, hardness plus density, IDC adds diversity, log(1 − max_j cos(x_i, x_j)) over all rows j that
    were asked about (β = γ = 1 as published); there is none for the first.

    Args:
        x: rows, whose cosines say how alike they are.
        value: of each row.
        asked: rows asked about before.
        open_rows: rows that may be asked about.
        n_questions: at most as many as rows are open.
    """
    unit = normalize(x.float())
    allowed = value.double().masked_fill(~open_rows, -torch.inf)
    alike = torch.full((len(x),), -torch.inf)
    for before in torch.split(unit[asked], 256) if asked.any() else ():
        alike = torch.maximum(alike, (unit @ before.T).amax(1))
    chosen: list[int] = []
    for _ in range(n_questions):
        diversity = (1 - alike).clamp(min=LEAST).log() if torch.isfinite(alike[0]) else torch.zeros(())
        best = int((allowed + diversity).argmax())
        chosen.append(best)
        allowed[best] = -torch.inf
        alike = torch.maximum(alike, unit @ unit[best])
    return chosen


def _typical(
    z: Float32[Tensor, "m c"],
    before: Bool[Tensor, "m"],
    open_rows: Bool[Tensor, "m"],
    n_questions: int,
    seed: int,
) -> list[tuple[int, int]]:
    """Places of typical rows, and how many rows each stands for."""
    n_questions = min(n_questions, int(open_rows.sum()))
    if not n_questions:
        return []
    generator = torch.Generator().manual_seed(seed)
    there = (open_rows | before).nonzero()[:, 0]
    drawn = there[subsample(len(there), _GROUPED, generator)]
    if len(drawn) < len(there):
        drawn = torch.unique(torch.cat([drawn, before.nonzero()[:, 0]]))
    n_groups = min(int(before.sum()) + n_questions, len(drawn))
    centers = kmeans(z[drawn], n_groups, generator=generator, metric="euclidean", n_init=1, max_iter=50).centers
    own, distances, _ = assign(z[drawn], centers, "euclidean")
    sizes = torch.bincount(own, minlength=n_groups)
    covered = torch.zeros(n_groups, dtype=torch.bool)
    covered[own[before[drawn]]] = True
    found: list[tuple[int, int]] = []
    for group in sizes.argsort(descending=True, stable=True).tolist():
        inside = ((own == group) & open_rows[drawn]).nonzero()[:, 0]
        if len(found) < n_questions and not covered[group] and len(inside):
            nearest = inside[distances[inside].argmin()]
            found.append((int(drawn[nearest]), round(int(sizes[group]) * len(there) / len(drawn))))
    return found


def _candidates(x: Float[Tensor, "q d"], centers: Float[Tensor, "k d"], metric: Metric) -> Int64[Tensor, "q j"]:
    rows = Rows(x, metric, dtype=torch.float64)
    near = squared_distances(rows[:], rows.prepare(centers.to(x.device)))
    return near.topk(min(N_CANDIDATES, len(centers)), largest=False).indices


def _margins(z: Float32[Tensor, "m c"], centers: Float[Tensor, "k d"], graph: Graph) -> Float32[Tensor, "m"]:
    """Difference of the cosines to the two nearest centres, about the mean of all rows; with one centre 1."""
    if len(centers) < 2:
        return torch.ones(len(z))
    directions = normalize(graph.coordinates.of(centers.cpu()))
    found = torch.empty(len(z))
    for part in Rows(z, "euclidean").parts(len(centers)):
        top = (normalize(z[part]) @ directions.T).topk(2).values
        found[part] = top[:, 0] - top[:, 1]
    return found
