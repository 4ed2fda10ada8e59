"""How many bits it takes to describe rows cluster by cluster: good clusters make them few."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

N_ASKED = 1000


def coding_length(rows: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], distortion: float) -> float:
    """Bits per row to say in which cluster it is, and where, up to a mean squared error ``distortion`` = ε².

    With m_i rows, mean μ_i (the mean of all rows being 0) and covariance Σ_i in cluster i, the n rows take

        Σ_i  (m_i + d)/2 · log₂ det(I + d/ε² · Σ_i)  +  d/2 · log₂(1 + ‖μ_i‖²/ε²)  −  m_i · log₂(m_i/n)

    bits: the rows of each cluster as those of a Gaussian, its mean, and the labels (Ma, Derksen, Hong and Wright,
    "Segmentation of Multivariate Mixed Data via Lossy Data Coding and Compression", IEEE PAMI 29(9), 2007). To split
    a Gaussian does not pay: its halves are narrower by less than the bit that says which half a row is in.
    """
    n, d = rows.shape
    rows = rows.double() - rows.mean(0, dtype=torch.float64)
    present, clusters, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    means = rows.new_zeros(len(present), d).index_add_(0, clusters, rows) / sizes[:, None]
    apart = rows - means[clusters]
    products = (apart[:, :, None] * apart[:, None]).flatten(1)
    covariances = rows.new_zeros(len(present), d * d).index_add_(0, clusters, products) / sizes[:, None]
    identity = torch.eye(d, dtype=torch.float64, device=rows.device)
    nats = (sizes + d) / 2 * torch.logdet(identity + d / distortion * covariances.view(-1, d, d))
    nats += d / 2 * torch.log1p(means.square().sum(1) / distortion)
    nats += sizes * torch.log(n / sizes)
    return float(nats.sum()) / math.log(2) / n


def neighbour_distance(rows: Float[Tensor, "n d"], rank: int) -> float:
    """Root mean square, over up to 1 000 rows, of the distance to the nearest row (rank 1), the second (2) and so on.

    Where so many rows are the same that it would be 0, it is a thousandth of the spread of all rows.
    """
    asked = rows[:: math.ceil(len(rows) / N_ASKED)]
    distances = torch.cdist(asked, rows, compute_mode="donot_use_mm_for_euclid_dist")
    reach = distances.kthvalue(1 + min(rank, len(rows) - 1), dim=1).values  # the first is the row itself
    spread = float(rows.double().var(0, correction=0).sum())
    return math.sqrt(max(float(reach.double().square().mean()), 1e-6 * spread))
