"""How many clusters there are: candidates ranked by an election among criteria, and how far to trust the winner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shoal.clustering.inputs import drawn_features
from shoal.clustering.parameters import Array, precision_of
from shoal.clustering.rows import Metric, coincide
from shoal.clustering.suggest.sweep import Sweep
from shoal.clustering.umap import umap_embedding
from shoal.errors import UserError


@dataclass(frozen=True, eq=False)
class Election:
    """Result of ``elect``; candidates are indices into the scores."""

    votes: Float64[Tensor, "k"]
    """Wins less losses of each candidate, as a share of all its comparisons: from −1 to 1."""
    favourites: Int64[Tensor, "c"]
    """The candidate with the largest mean score, for each criterion."""
    tied: list[Int64[Tensor, "_"]]
    """For each criterion, the candidates that are not clearly worse than its favourite."""

    @property
    def winner(self) -> int:
        """The candidate with the most votes, of several the first."""
        return int(self.votes.argmax())


def elect(scores: Float[Tensor, "k r c"]) -> Election:
    """Compare every two candidates by each criterion; each comparison is a win, a loss or a draw.

    A candidate wins if its score is larger by more than the standard error of the difference, and draws within it.
    The vote is then Borda's count with ties, on the criteria's ballots. It needs no scales or weights.

    Args:
        scores: of k candidates by c criteria, larger being better, repeated on r halves of the data. Candidates are
            compared on the same half, so the standard error is the deviation of their difference over halves:
            a statistic of a random half deviates from that of the whole by its standard error (McCarthy 1969).
    """
    difference = scores.double()[:, None] - scores.double()[None]
    mean, error = difference.mean(2), difference.std(2)
    won = (mean > error).double() - (mean < -error).double()
    k, _, c = scores.shape
    votes = won.sum((1, 2)) / (c * max(1, k - 1))
    favourites = scores.double().mean(1).argmax(0)
    tied = [(won[favourite, :, i] <= 0).nonzero()[:, 0] for i, favourite in enumerate(favourites.tolist())]
    return Election(votes, favourites, tied)


MIN_ROWS = 20
MAX_ROWS = 10_000
N_EMBEDDINGS = 3
N_COMPONENTS = 16
STEP = 1.25
REFINEMENTS = 4
CRITERIA = ("silhouette", "stability", "saved bits")


@dataclass(frozen=True)
class Candidate:
    """A number of clusters and its scores, each a mean over halves of the rows."""

    k: int
    score: float
    """Comparisons with other k won less those lost, as a share of all: 1 is the best by every criterion, −1 the worst.
    """
    silhouette: float
    """Separation of the clusters in the UMAP embedding, −1 to 1."""
    stability: float
    """Adjusted Rand index between clusterings of other halves and embeddings: 1 is the same clusters, 0 is chance."""
    saved_bits: float
    """Bits per row by which clusters shorten the description of the embedding, against one cluster."""


@dataclass(frozen=True)
class Suggestion:
    """Numbers of clusters, best first, and the interval in which to look."""

    candidates: tuple[Candidate, ...]
    interval: tuple[int, int]
    clear: bool
    """Whether the features, not only their embedding, are described in fewer bits by clusters than by one cluster."""
    n_rows: int
    """Rows that were looked at, a random sample if there are more."""
    metric: Metric
    notes: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The first of the candidates."""
        return self.candidates[0]

    @property
    def k(self) -> int:
        """The number of clusters of the best candidate."""
        return self.best.k

    def as_text(self, most: int = 10) -> str:
        """A table of the best candidates, the interval and the notes."""
        lines = ["  k   score   silhouette   stability   saved bits"]
        lines += [
            f"{c.k:3}   {c.score:5.2f}   {c.silhouette:10.3f}   {c.stability:9.3f}   {c.saved_bits:10.3f}"
            for c in self.candidates[:most]
        ]
        low, high = self.interval
        lines += ["", f"best k = {self.k}, plausible from {low} to {high}", *self.notes]
        return "\n".join(lines)


def suggest_k(
    features: Array | Tensor,
    k_range: tuple[int, int] | None = None,
    *,
    metric: Metric = "cosine",
    seed: int = 0,
) -> Suggestion:
    """Rank numbers of clusters by how separate, stable and informative their clusters are.

    Up to 10 000 rows are embedded by UMAP three times, and each embedding is split at random into halves, twice.
    k-means finds the clusters of each half, for each k of a logarithmic grid, then for each k beside the best two.
    Three criteria, each repeated on the twelve halves, compare every two k (``ranking.elect``):

    - silhouette (Rousseeuw 1987), in the embedding;
    - stability: mean adjusted Rand index between the clusterings of all rows that the halves give (as Ben-Hur,
      Elisseeff and Guyon 2002, and Lange et al. 2004);
    - lossy coding length (Ma et al. 2007, ``sweep.coding_length``), in the embedding.

    The interval spans the best k; of each criterion, the k nearest to the best among those that are not clearly worse
    than its own favourite; and the best k of each embedding alone. No structure is clear when no k shortens the
    description of the features themselves, in their 16 principal components; the interval is then all of ``k_range``.

    Args:
        features: (n, d), an array or a tensor on any device; the work is done on the CPU.
        k_range: the smallest and the largest k to try; (2, √n) if not given, n being the rows that are looked at.
        metric: decides which rows are neighbours.
        seed: random seed; the same seed gives the same suggestion.

    Raises:
        UserError: a range that is reversed, below 2 or above half of the rows; fewer than 20 rows; NaN, infinity, rows
            that are all the same or, under the cosine, zero.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = _checked(drawn_features(features, MAX_ROWS, generator), metric).cpu()
    low, high = _range(k_range, len(rows))
    *seeds, last = torch.randint(2**31, (N_EMBEDDINGS + 1,), generator=generator).tolist()
    embeddings = [umap_embedding(rows, metric=metric, seed=each) for each in seeds]
    sweep = Sweep(embeddings, _components(rows, metric, last), generator)
    sweep.measure(_grid(low, high))
    for _ in range(REFINEMENTS):
        sweep.measure(_beside_the_best(sweep))
    return _suggestion(sweep, metric)


def _checked(rows: Float[Tensor, "n d"], metric: Metric) -> Float[Tensor, "n d"]:
    rows = rows.detach().to(precision_of(rows))
    if len(rows) < MIN_ROWS:
        raise UserError(f"{len(rows)} rows are too few to choose a number of clusters: give {MIN_ROWS} at least.")
    if not torch.isfinite(rows).all():
        raise UserError("features hold NaN or infinity: leave those rows out.")
    if metric == "cosine" and not rows.any(1).all():
        raise UserError("features hold rows of zeros, which have no cosine: leave these out, or give another metric.")
    if coincide(rows, metric):
        what = "are the same" if metric == "euclidean" else "have the same direction"
        raise UserError(f"all rows {what}: there is nothing to cluster.")
    return rows


def _range(k_range: tuple[int, int] | None, n: int) -> tuple[int, int]:
    low, high = k_range or (2, math.isqrt(n))
    if low > high:
        raise UserError(f"k_range is reversed ({low}, {high}): give the smaller k first.")
    if low < 2:
        raise UserError(f"k_range starts at {low}: give 2 or more, since one cluster has nothing to be compared with.")
    if high > n // 2:
        raise UserError(f"k_range ends at {high}: give at most {n // 2}, half of the {n} rows that are looked at.")
    return low, high


def _components(rows: Float[Tensor, "n d"], metric: Metric, seed: int) -> Float[Tensor, "n c"]:
    """Principal components of the rows, under the cosine of their directions."""
    from sklearn.decomposition import PCA  # slow to import

    if metric == "cosine":
        rows = torch.nn.functional.normalize(rows)
    rows = (rows - rows.mean(0)).float()
    most = min(N_COMPONENTS, *rows.shape)
    return torch.from_numpy(PCA(most, svd_solver="randomized", random_state=seed).fit_transform(rows.numpy()))


def _grid(low: int, high: int) -> list[int]:
    """Numbers that grow by a quarter, or by 1."""
    ks = [low]
    while ks[-1] < high:
        ks.append(min(high, max(ks[-1] + 1, round(ks[-1] * STEP))))
    return ks


def _elect(sweep: Sweep, halves: slice = slice(None)) -> tuple[list[int], Election]:
    ks = sorted(sweep.scores)
    return ks, elect(torch.stack([sweep.scores[k][halves] for k in ks]))


def _beside_the_best(sweep: Sweep) -> set[int]:
    """Half-way from the best two to the k tried on either side."""
    ks, election = _elect(sweep)
    best = election.votes.argsort(descending=True, stable=True)[:2].tolist()
    beside = [(i, j) for i in best for j in (i - 1, i + 1) if 0 <= j < len(ks)]
    return {(ks[i] + ks[j]) // 2 for i, j in beside}


def _suggestion(sweep: Sweep, metric: Metric) -> Suggestion:
    ks, election = _elect(sweep)
    best = ks[election.winner]
    order = election.votes.argsort(descending=True, stable=True).tolist()
    figures = [sweep.scores[k].mean(0).tolist() for k in ks]
    candidates = tuple(Candidate(ks[i], float(election.votes[i]), *figures[i]) for i in order)
    clear = max(sweep.saved.values()) > 0
    if clear:
        near = [min((ks[i] for i in tied.tolist()), key=lambda k: abs(math.log(k / best))) for tied in election.tied]
        each = len(sweep.halves) // N_EMBEDDINGS
        parts = [_elect(sweep, slice(start, start + each)) for start in range(0, len(sweep.halves), each)]
        plausible = [best, *near, *(tried[part.winner] for tried, part in parts)]
    else:
        plausible = ks
    favourites = [ks[i] for i in election.favourites.tolist()]
    return Suggestion(
        candidates=candidates,
        interval=(min(plausible), max(plausible)),
        clear=clear,
        n_rows=len(sweep.features),
        metric=metric,
        notes=tuple(_notes(best, (ks[0], ks[-1]), favourites, clear=clear)),
    )


def _notes(best: int, tried: tuple[int, int], favourites: list[int], *, clear: bool) -> list[str]:
    notes = []
    if not clear:
        notes.append("There is no clear structure: the features are described best as a single cluster.")
    if len(set(favourites)) > 1:
        each = ", ".join(f"{name} {k}" for name, k in zip(CRITERIA, favourites, strict=True))
        notes.append(f"Each criterion by itself prefers: {each}.")
    if clear and best == tried[1]:
        notes.append(f"The best k is the largest that was tried: try beyond {tried[1]}.")
    return notes
