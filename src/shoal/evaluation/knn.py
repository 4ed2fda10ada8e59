"""Classification by weighted nearest neighbours, which needs no training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.errors import UserError

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""k and T of most published results of momentum methods."""


def knn_predict(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "n d"],
    bank_labels: Int64[Tensor, "n"],
    k: int,
    temperature: float,
) -> Int64[Tensor, "q c"]:
    """Rank the classes of each query by the votes of its k nearest neighbours in a bank.

    A neighbour i votes for its class with weight exp(cos(x, b_i)/T) (Wu et al. 2018, arXiv 1805.01978, section 3.4).
    Ties are broken by the order in the bank, and between classes by their number, so that the ranking is deterministic.
    Memory beside the arguments does not grow with q·n.

    Args:
        queries: features, of any length.
        bank: features with known classes, of any length.
        bank_labels: classes in [0, c); c is the largest of them plus one.
        k: number of neighbours that vote.
        temperature: T.

    Returns:
        All c classes of each query, best first; column 0 is the prediction, the first five columns the top-5.

    Raises:
        UserError: the bank has fewer rows than k.
    """
    return _ranked(F.normalize(queries.float()), F.normalize(bank.float()), bank_labels, k, temperature)


def knn_leave_one_out(
    features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], k: int, temperature: float
) -> Int64[Tensor, "n c"]:
    """Rank the classes of each row as ``knn_predict`` does, with all other rows as its bank.

    Raises:
        UserError: there are fewer other rows than k.
    """
    rows = F.normalize(features.float())
    return _ranked(rows, rows, labels, k, temperature, leave_one_out=True)


def _ranked(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    k: int,
    temperature: float,
    *,
    leave_one_out: bool = False,
) -> Int64[Tensor, "q c"]:
    available = len(bank) - leave_one_out
    if not 1 <= k <= available:
        raise UserError(
            f"{k} nearest neighbours need as many other labelled images, and there are {max(available, 0)}: label more."
        )
    ranked = torch.empty(len(queries), int(labels.max()) + 1, dtype=torch.int64, device=queries.device)
    for part in _chunks(len(queries), len(bank)):
        cosines = queries[part] @ bank.T
        if leave_one_out:
            cosines.diagonal(part.start).fill_(-torch.inf)
        nearest, index = _nearest(cosines, k)
        # Relative to the nearest neighbour's vote: the same order, without overflow at any temperature.
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(weights), ranked.shape[1]).scatter_add_(1, labels[index], weights)
        ranked[part] = votes.argsort(stable=True, dim=1, descending=True)
    return ranked


def _nearest(cosines: Float[Tensor, "b n"], k: int) -> tuple[Float[Tensor, "b k"], Int64[Tensor, "b k"]]:
    values, index = cosines.topk(k)
    # topk breaks ties arbitrarily. A stable sort does not, but is too slow for all rows.
    tied = ((cosines >= values[:, -1:]).sum(1) > k).nonzero()[:, 0]
    if len(tied):
        index[tied] = cosines[tied].argsort(stable=True, dim=1, descending=True)[:, :k]
    return values, index


def _chunks(n_queries: int, n_bank: int) -> Iterator[slice]:
    size = max(1, 2**22 // n_bank)
    for start in range(0, n_queries, size):
        yield slice(start, min(start + size, n_queries))
