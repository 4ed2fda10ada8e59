"""Rows in the order of their groups, for millions of rows and with little memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from shoal.mapped import release, scratch

_READ = 2**18


def grouped_rows(groups: Int[Tensor, "n"], n_groups: int) -> tuple[Int64[Tensor, "m"], list[int]]:
    """Rows group by group, ascending within each, and where each group begins, with the end of the last.

    A counting sort, a part of the rows at a time.

    Args:
        groups: of each row, −1 for none: such rows are left out.
        n_groups: how many groups there are.
    """
    sizes = group_sizes(groups, n_groups)
    ends = sizes.cumsum(0)
    order, free = scratch((int(sizes.sum()),), torch.int64), (ends - sizes).numpy()
    for start in range(0, len(groups), _READ):
        own = groups[start : start + _READ].numpy()
        rows = np.argsort(own, kind="stable")[int((own < 0).sum()) :]
        own = own[rows]
        counts = np.bincount(own, minlength=n_groups)
        before = np.cumsum(counts) - counts
        order[torch.from_numpy(free[own] + np.arange(len(own)) - before[own])] = torch.from_numpy(start + rows)
        free += counts
        release(order, groups)
    return order, [0, *ends.tolist()]


def group_sizes(groups: Int[Tensor, "n"], n_groups: int = 0) -> Int64[Tensor, "k"]:
    """How many rows each group has, up to the last that has any, ``n_groups`` at least; −1 counts in none."""
    sizes = torch.zeros(n_groups, dtype=torch.int64, device=groups.device)
    for part in torch.split(groups, _READ):
        counts = torch.bincount(part[part >= 0], minlength=len(sizes))
        counts[: len(sizes)] += sizes
        sizes = counts
    return sizes


def present_groups(groups: Int[Tensor, "n"]) -> Int64[Tensor, "k"]:
    """The groups that have rows, ascending; their numbers may be as high as they like."""
    parts = [torch.unique(part[part >= 0]) for part in torch.split(groups, _READ)]
    found: Tensor = torch.unique(torch.cat(parts)).long()
    return found


def groups_of(groups: Int[Tensor, "n"], n_groups: int) -> Iterator[tuple[int, Int64[Tensor, "m"]]]:
    """Each group that has rows, and its rows, ascending."""
    order, places = grouped_rows(groups, n_groups)
    for group, (start, end) in enumerate(pairwise(places)):
        if start < end:
            yield group, order[start:end].clone()
            release(order)


def least(values: Float[Tensor, "n"], rows: Int64[Tensor, "m"], n: int) -> Int64[Tensor, "l"]:
    """Those of some rows that have the n least values, and all that are equal to the last of them, as they stand."""
    own = values[rows]
    if len(own) <= n:
        return rows
    limit = own.kthvalue(n).values
    return rows if limit.isnan() else rows[own <= limit]
