"""Answers of a person about images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.errors import UserError

NOWHERE = -1
"""The cluster of an image that belongs to none."""

UNKNOWN = -2
"""Of an image of which it is known only where it does not belong."""


@dataclass(frozen=True)
class Answer:
    """Where a person says that the image in a row of the features belongs.

    ``cluster`` is one of the clustering, a new one (numbers from k on), ``NOWHERE``, or ``UNKNOWN`` for "none of
    these", which are ``ruled_out``. A confirmed or moved image is an answer as well.
    """

    row: int
    cluster: int
    ruled_out: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer for each row, ascending by row; ``ruled_out`` are pairs of a place in them and a cluster."""

    rows: Int64[Tensor, "m"]
    clusters: Int64[Tensor, "m"]
    ruled_out: Int64[Tensor, "r 2"]

    @classmethod
    def of(cls, answers: Iterable[Answer], n: int) -> Answers:
        """Put answers together; of several about a row the last counts.

        Args:
            answers: in the order in which they were given.
            n: number of rows.

        Raises:
            UserError: a row or a cluster that cannot be.
        """
        last = {answer.row: answer for answer in answers}
        found = [last[row] for row in sorted(last)]
        for answer in found:
            if not 0 <= answer.row < n:
                raise UserError(f"there is an answer about row {answer.row}: give rows from 0 to {n - 1}.")
            if answer.cluster < UNKNOWN or min(answer.ruled_out, default=0) < 0:
                raise UserError(
                    f"the answer about row {answer.row} names the cluster {answer.cluster} and rules out "
                    f"{list(answer.ruled_out)}: give clusters from 0 on, {NOWHERE} for nowhere, {UNKNOWN} for unknown."
                )
        pairs = [(i, each) for i, answer in enumerate(found) if answer.cluster == UNKNOWN for each in answer.ruled_out]
        return cls(
            torch.tensor([answer.row for answer in found], dtype=torch.int64),
            torch.tensor([answer.cluster for answer in found], dtype=torch.int64),
            torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        )

    def __len__(self) -> int:
        return len(self.rows)
