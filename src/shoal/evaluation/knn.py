"""Classification by weighted nearest neighbours, which needs no training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.contingency import Labels, whole_labels
from shoal.clustering.inputs import ArrayOrTensor, as_input_type, features_from
from shoal.clustering.parameters import Array, check_counts, precision_of
from shoal.errors import UserError

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""k and T of most published results of momentum methods."""


def knn_predict(
    queries: ArrayOrTensor, bank: ArrayOrTensor, bank_labels: Labels, k: int, temperature: float
) -> ArrayOrTensor:
    """Rank the classes of each query by the votes of its k nearest neighbours in a bank.

    A neighbour i votes for its class with weight exp(cos(x, b_i)/T) (Wu et al. 2018, arXiv 1805.01978, section 3.4).
    Ties are broken by the order in the bank, and between classes by their number, so that the ranking is deterministic.
    Memory beside the arguments does not grow with q·n.

    Args:
        queries: features (q, d), of any length.
        bank: features (n, d) with known classes, of any length.
        bank_labels: their classes (n,), in [0, c) with c the largest of them plus one, or names; rows of the bank with
            a negative one have no vote.
        k: number of neighbours that vote.
        temperature: T.

    Returns:
        All c classes of each query (q, c), best first; column 0 is the prediction, the first five columns the top-5.
        For arrays an array, and for names an array of names.

    Raises:
        UserError: the bank has fewer labelled rows than k, or its labels or widths do not fit.
    """
    rows, labels, names = labelled(bank, bank_labels)
    asked = features_from(queries)
    check_width(asked, rows)
    asked, rows = (F.normalize(each.to(precision_of(each))) for each in (asked, rows))
    return as_classes(queries, _ranked(asked, rows, labels, k, temperature), names)


def knn_leave_one_out(features: ArrayOrTensor, labels: Labels, k: int, temperature: float) -> ArrayOrTensor:
    """Rank the classes of each row as ``knn_predict`` does, with all other rows as its bank.

    Raises:
        UserError: there are fewer other rows than k, or a row without a class.
    """
    rows, numbers, names = labelled(features, labels)
    if len(rows) < len(features):
        raise UserError(f"{len(features) - len(rows)} of {len(features)} rows have no class: leave them out.")
    rows = F.normalize(rows.to(precision_of(rows)))
    return as_classes(features, _ranked(rows, rows, numbers, k, temperature, leave_one_out=True), names)


def labelled(features: Array | Tensor, labels: Labels) -> tuple[Float[Tensor, "m d"], Int64[Tensor, "m"], Array | None]:
    """The rows that have a class, the numbers of their classes, and the names of these if they have names.

    Raises:
        UserError: labels that do not fit, or no row that has a class.
    """
    rows, (numbers, names) = features_from(features), whole_labels(labels)
    classes = torch.as_tensor(numbers).long().to(rows.device)
    if len(classes) != len(rows):
        raise UserError(f"{len(rows)} rows of features and {len(classes)} labels: give one label for each row.")
    known = classes >= 0
    if not known.any():
        raise UserError("no row has a class: give labels from 0 on, or names.")
    return (rows, classes, names) if known.all() else (rows[known], classes[known], names)


def check_width(queries: Float[Tensor, "q d"], features: Float[Tensor, "n d"]) -> None:
    """Refuse queries of another width.

    Raises:
        UserError: says both widths.
    """
    if queries.shape[1] != features.shape[1]:
        raise UserError(f"queries have {queries.shape[1]} columns: give {features.shape[1]}, like the features.")


def as_classes(queries: ArrayOrTensor, ranked: Int64[Tensor, "q c"], names: Array | None) -> ArrayOrTensor:
    """Ranked classes as an array of names, if they have names; else as the queries were given."""
    return as_input_type(queries, ranked) if names is None else names[ranked.cpu().numpy()]


def _ranked(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    k: int,
    temperature: float,
    *,
    leave_one_out: bool = False,
) -> Int64[Tensor, "q c"]:
    check_counts(k=k)
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature={temperature} must be larger than 0: published results have 0.07.")
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
