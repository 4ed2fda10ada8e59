"""The order in which an epoch visits the images."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


def steps_of_epoch(n_clustered: int, n_others: int, batch_size: int) -> int:
    """Whole batches in an epoch; the images left over sit this epoch out.

    Where there are images beside those that are clustered, each batch is half of the ones and half of the others, and
    the epoch lasts as long as one pass over the more numerous kind.
    """
    if not n_others:
        return n_clustered // batch_size
    others = batch_size // 2
    return max(n_clustered // (batch_size - others), n_others // others, 1)


def order_of_epoch(
    clustered: Bool[Tensor, "n"],
    batch_size: int,
    labels: Int64[Tensor, "n"] | None,
    generator: torch.Generator,
) -> Int64[Tensor, "m"]:
    """Which images an epoch visits, batch after batch.

    Args:
        clustered: the images that take part in the clustering; see ``steps_of_epoch`` for the rest.
        batch_size: images of a step.
        labels: pseudo-labels by which clustered images are drawn, so that every cluster is seen equally often; None
            visits each image once.
        generator: source of the order, on the device of ``clustered``.
    """
    first, second = (mask.nonzero()[:, 0] for mask in (clustered, ~clustered))

    def one_pass(rows: Int64[Tensor, "r"]) -> Int64[Tensor, "r"]:
        if labels is None or rows is second:
            return rows[shuffled(len(rows), generator)]
        return rows[equal_clusters(labels[rows], generator)]

    if not len(second):
        return one_pass(first)
    steps, half = steps_of_epoch(len(first), len(second), batch_size), batch_size // 2
    columns = []
    for rows, width in ((first, batch_size - half), (second, half)):
        passes = -(-steps * width // len(rows))
        columns.append(torch.cat([one_pass(rows) for _ in range(passes)])[: steps * width].view(steps, width))
    # Mixed within the batch, so that each process gets some of either kind.
    return torch.cat(columns, dim=1)[:, shuffled(batch_size, generator)].flatten()


def shuffled(n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
    """Every image once, in random order."""
    return torch.randperm(n, generator=generator, device=generator.device)


def equal_clusters(labels: Int64[Tensor, "n"], generator: torch.Generator) -> Int64[Tensor, "n"]:
    """As many images, drawn with replacement so that every cluster that has images is seen equally often.

    An image weighs the inverse of its cluster's size (ProPos' ``data_resample``); images of no cluster (−1) together
    weigh as much as one cluster.
    """
    _, cluster, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    weights = 1.0 / sizes[cluster].double()
    # Inverse transform sampling: torch.multinomial stops at 2**24 categories.
    edges = weights.cumsum(0)
    draws = torch.rand(len(labels), generator=generator, dtype=torch.float64, device=generator.device)
    return torch.searchsorted(edges, draws * edges[-1]).clamp(max=len(labels) - 1)
