"""Whether the rows at hand are all there are, or one rank's share of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from shoal import distributed


@dataclass(frozen=True)
class Shards:
    """What ranks must tell each other when each holds rows of its own; with ``cut`` false everything is at hand.

    It is said, not guessed, because a rank may also cluster rows that only it has.
    """

    cut: bool

    def sum(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum over all ranks."""
        return distributed.sum_over_ranks(values) if self.cut else values

    def gather(self, rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "all_b ..."]:
        """The rows of all ranks, in rank order."""
        return distributed.gather_uneven(rows) if self.cut else rows

    def agree(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The first rank's values: what all ranks work out for themselves may differ in its last digit."""
        return distributed.from_first_rank(values) if self.cut else values

    def total(self, n: int) -> int:
        """How many rows the ranks hold together."""
        return int(self.sum(torch.tensor(n)))

    def before(self, value: Shaped[Tensor, ""]) -> Shaped[Tensor, ""]:
        """The sum of a value over the ranks that come before this one."""
        return self.gather(value[None])[: distributed.rank()].sum() if self.cut else torch.zeros_like(value)


ALONE = Shards(cut=False)
