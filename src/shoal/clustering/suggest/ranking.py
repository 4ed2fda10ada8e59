"""An election among candidates by criteria that have no common scale."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Float64, Int64
from torch import Tensor


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
