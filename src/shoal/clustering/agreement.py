"""How often rows like a row are in its cluster, by clusterings of another kind: an accuracy without labels."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.rows import Metric, distinct_rows, subsample
from shoal.device import hold_threads

MAX_ROWS = 5000
"""Rows among which neighbours are looked for, drawn if there are more: what it costs is bounded by them."""

ASKED = 1000
"""Rows whose agreement is measured, of these: their mean is known to about 0.01."""

NEIGHBOURS = 10
CLUSTERINGS = 4
"""Spectral clusterings, each of a sample of its own. The half of them that agrees better counts: one that has missed
the groups agrees with nothing, which says nothing about the clusters in question."""

SAMPLE = 1500
PER_CLUSTER = 50
"""Rows of a spectral clustering: at least this many in all, and for each cluster."""

LEAST = 5
"""Rows per cluster below which there is nothing to measure: no clustering of a sample could find such clusters."""


def neighbour_agreement(
    features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], metric: Metric, seed: int
) -> tuple[Int64[Tensor, "m"], Float64[Tensor, "m"]] | None:
    """Of some rows, the share of their neighbours that other clusterings put into the cluster that the row is in.

    Neighbours of a row are the ten nearest others. The other clusterings are spectral ones (Ng, Jordan and Weiss 2001)
    of the neighbour graphs of four small samples, of which the two that agree better count. Every other row takes the
    cluster of most of its ten nearest sampled rows, and clusters are matched to ``labels`` one to one, so that most
    rows agree.

    A clustering that is wrong about a row is in doubt in one of three ways: neighbours are in other clusters, another
    kind of clustering draws the border elsewhere, or another sample gives other clusters. The share counts all three.
    Equal rows count once, since copies agree with each other whatever they are. The same seed gives the same rows and
    shares.

    Args:
        features: rows, also a memory map: only a sample is read.
        labels: cluster of each row, negative for none; such rows have no part in it.
        metric: decides which rows are neighbours.
        seed: of the samples and the clusterings.

    Returns:
        Numbers of rows, ascending, and the share of each, in [0, 1]; None for a single cluster, or for fewer than five
        different rows per cluster.

    Raises:
        UserError: NaN, infinity, a zero row under the cosine, rows whose squared distances overflow.
    """
    generator = torch.Generator().manual_seed(seed)
    clustered = (labels >= 0).nonzero()[:, 0].cpu()
    drawn = clustered[subsample(len(clustered), MAX_ROWS, generator)]
    x = features[drawn.to(features.device)].detach().cpu()
    first = distinct_rows(x)[0]
    drawn, x = drawn[first], x[first]
    present, own = torch.unique(labels.cpu()[drawn], return_inverse=True)
    k = len(present)
    if k < 2 or len(x) < LEAST * k:
        return None
    asked = subsample(len(x), ASKED, generator)
    near = _others(x, asked, metric)
    read, place = torch.unique(near, return_inverse=True)
    shares = []
    n_sampled = min(max(SAMPLE, PER_CLUSTER * k), 3 * len(x) // 4)
    for _ in range(CLUSTERINGS):
        sample = subsample(len(x), n_sampled, generator)
        draw = int(torch.randint(2**31, (), generator=generator))
        found = spectral_clusters(x[sample], k, metric, draw)
        voters, _ = nearest_neighbours(x[sample], min(NEIGHBOURS, n_sampled), metric, x[read])
        votes = one_hot(found[voters], k).sum(1).argmax(1)
        shares.append((_matched(votes, own[read], k)[place] == own[asked, None]).double().mean(1))
    better = sorted(shares, key=lambda each: -float(each.mean()))[: CLUSTERINGS // 2]
    return drawn[asked], torch.stack(better).mean(0)


def spectral_clusters(features: Float[Tensor, "n d"], n_clusters: int, metric: Metric, seed: int) -> Int64[Tensor, "n"]:
    """Spectral clusters of the graph of ten neighbours, by scikit-learn; ``n`` must exceed ``n_clusters``.

    Where its eigenvectors cannot be computed, all rows are in one.
    """
    from scipy.sparse import csr_array  # these are slow to import
    from scipy.sparse.linalg import ArpackError
    from sklearn.cluster import SpectralClustering

    n = len(features)
    near, _ = nearest_neighbours(features, min(NEIGHBOURS, n - 1), metric)
    # scikit-learn takes no longer numbers than int32 for the places in a sparse matrix.
    starts = np.arange(0, near.numel() + 1, near.shape[1], dtype=np.int32)
    graph = csr_array((np.ones(near.numel()), near.flatten().int().numpy(), starts), (n, n))
    method = SpectralClustering(n_clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    with warnings.catch_warnings(), hold_threads(1):
        warnings.simplefilter("ignore")  # about graphs in pieces, as clusters are
        try:
            labels = method.fit((graph + graph.T) / 2).labels_
        except (ArpackError, np.linalg.LinAlgError):  # eigenvectors that do not converge
            return torch.zeros(n, dtype=torch.int64)
    return torch.from_numpy(labels).long()


def _others(x: Float[Tensor, "n d"], asked: Int64[Tensor, "m"], metric: Metric) -> Int64[Tensor, "m v"]:
    """The nearest other rows of some rows; no two rows are equal."""
    n_others = min(NEIGHBOURS, len(x) - 1)
    near, _ = nearest_neighbours(x, n_others + 1, metric, x[asked])
    own_last = (near == asked[:, None]).int().argsort(dim=1, stable=True)  # it is nearest, but for rounding
    return near.gather(1, own_last)[:, :n_others]


def _matched(pred: Int64[Tensor, "n"], labels: Int64[Tensor, "n"], k: int) -> Int64[Tensor, "n"]:
    """``pred`` in the numbers of ``labels``: one to one, so that most rows agree."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    counts = torch.bincount(pred * k + labels, minlength=k * k).view(k, k)
    columns = linear_sum_assignment(counts.numpy(), maximize=True)[1]
    return torch.from_numpy(columns)[pred]
