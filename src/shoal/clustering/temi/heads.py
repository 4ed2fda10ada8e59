"""Clustering heads of TEMI, many side by side, their loss and the principal components that they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shoal.clustering.parameters import precision_of
from shoal.clustering.rows import Metric, Rows, unit_length
from shoal.device import multiplies_bfloat16

HIDDEN = 512
BOTTLENECK = 256
TEMPERATURE = 0.1
MARGINAL = 0.9
BETA = 0.6


class Heads(nn.Module):
    """Linear(c, 512), GELU, Linear(512, 256), unit length, weight-normed Linear(256, k): h heads in one product each.

    Weights are initialised as in DINO's heads (Caron et al. 2021, arXiv 2104.14294): normal with deviation 0.02, biases
    zero, the last layer uniform and its gains 1. As in the published code of TEMI, the gains are learned.
    """

    def __init__(self, n_heads: int, n_features: int, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02, generator=generator))

        bound = BOTTLENECK**-0.5
        last = torch.empty(n_heads, n_clusters, BOTTLENECK)
        self.first = normal(n_heads * HIDDEN, n_features)
        self.first_bias = nn.Parameter(torch.zeros(n_heads * HIDDEN))
        self.second = normal(n_heads, BOTTLENECK, HIDDEN)
        self.second_bias = nn.Parameter(torch.zeros(n_heads, BOTTLENECK))
        self.last = nn.Parameter(nn.init.uniform_(last, -bound, bound, generator=generator))
        self.gain = nn.Parameter(torch.ones(n_heads, n_clusters))

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "h k b"]:
        """Logits of each head, times the temperature."""
        # Rows are columns here, so that nothing large is transposed.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=multiplies_bfloat16(x.device)):
            hidden = F.gelu(torch.addmm(self.first_bias[:, None], self.first, x.T))
            inside = torch.baddbmm(self.second_bias[:, :, None], self.second, hidden.view(-1, HIDDEN, len(x)))
        inside = inside.float()
        length = inside.square().sum(1, keepdim=True).clamp(min=1e-24).sqrt()
        return (F.normalize(self.last, dim=2) * self.gain[:, :, None]) @ inside / length


HEAD_SHAPES = {
    "mean": ("d",),
    "first": ("d", "hidden"),
    "first_bias": ("hidden",),
    "second": ("hidden", "bottleneck"),
    "second_bias": ("bottleneck",),
    "last": ("bottleneck", "k"),
}
"""The tensors of a head."""


class Head(nn.Module):
    """A head of an earlier version: softmax(norm(GELU((x − mean) · first) · second) · last / 0.1), with biases."""

    last: Tensor

    def __init__(self, metric: Metric, **tensors: Float[Tensor, "..."]) -> None:
        """``tensors`` are those named in ``HEAD_SHAPES``; rows are scaled to unit length for the cosine."""
        super().__init__()
        self.cosine = metric == "cosine"
        for name in HEAD_SHAPES:
            self.register_buffer(name, tensors[name])

    @property
    def n_clusters(self) -> int:
        """How many probabilities it gives."""
        return self.last.shape[1]

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster, in the precision of the features, but at least float32."""
        return self.log_scores(features).softmax(1)

    def log_scores(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Log probability of each cluster but for a constant per row."""
        x = features.to(precision_of(features))
        mean, first, first_bias, second, second_bias, last = (self.get_buffer(name).to(x) for name in HEAD_SHAPES)
        x = (unit_length(x) if self.cosine else x) - mean
        hidden = F.gelu(torch.addmm(first_bias, x, first))
        unit = F.normalize(torch.addmm(second_bias, hidden, second), dim=1)
        return unit @ last / TEMPERATURE


def log_probabilities(logits: Float[Tensor, "h k b2"]) -> Float[Tensor, "h k 2 b"]:
    """Log q of rows, and then of a neighbour of each, from logits times the temperature."""
    return (logits / TEMPERATURE).log_softmax(1).view(*logits.shape[:2], 2, -1)


def update_marginal(marginal: Float[Tensor, "h k"], teacher: Float[Tensor, "h k 2 b"]) -> None:
    """p̃ ← 0.9 p̃ + 0.1 mean q_t, in place, over rows and neighbours; before the loss, as in the published code."""
    marginal.lerp_(teacher.exp().mean((2, 3)), 1 - MARGINAL)


def temi_loss(
    student: Float[Tensor, "h k 2 b"],
    teacher: Float[Tensor, "h k 2 b"],
    marginal: Float[Tensor, "h k"],
    *,
    beta: float = BETA,
) -> Float[Tensor, "h"]:
    """Teacher-ensemble-weighted pointwise mutual information of pairs, negated, for each head.

    L = −½ mean_b w(x, x′) · [log Σ_c (q_s(c|x) q_t(c|x′))^β / p̃(c) + the same with x and x′ swapped], where
    w(x, x′) = mean_h Σ_c q_t(c|x) q_t(c|x′) (Adaloglou, Michels, Kalisch and Kollmann 2023, arXiv 2303.17896, TEMI).

    Args:
        student: log q_s of the rows and of a neighbour of each, by h heads.
        teacher: log q_t of the same; no gradient flows there.
        marginal: p̃, how often each head's teacher uses each cluster.
        beta: exponent; below 1 it keeps clusters of about equal size.
    """
    teacher = teacher.detach()
    weight = teacher.sum(2).exp().sum(1).mean(0)
    smallest = torch.finfo(marginal.dtype).tiny
    pairs = beta * (student + teacher.flip(2)) - marginal.clamp(min=smallest).log()[:, :, None, None]
    return -(weight * pairs.logsumexp(1)).mean((1, 2))


OVERSAMPLED = 16
ITERATIONS = 4
"""Dimensions beside those wanted, and products with the covariance, which leave no visible error (Halko, Martinsson and
Tropp 2011)."""

CONSTANT = 8
"""A column whose deviation is less than this many roundings of its mean varies by these alone and is not scaled."""


@dataclass(frozen=True, eq=False)
class Components:
    """z = ((x − mean) / scale) · axes: the first principal components of standardised columns."""

    mean: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]
    axes: Float[Tensor, "d c"]

    def of(self, rows: Rows) -> Float[Tensor, "n c"]:
        """The components of each row."""
        found = rows.features.new_empty(len(rows), self.axes.shape[1], dtype=torch.float32)
        for part, z in _standardised(rows, self.mean, self.scale):
            found[part] = z @ self.axes
        return found


def principal_components(rows: Rows, most: int, generator: torch.Generator) -> Components:
    """The first ``most`` components, or as many as there are columns, by subspace iteration in float32.

    Rows are read a chunk at a time: ``torch.pca_lowrank`` would need a standardised copy of all of them, and draws from
    the global generator.

    Args:
        rows: the data.
        most: how many components are wanted.
        generator: draws the subspace that the iteration starts from.
    """
    device, d = rows.features.device, rows.features.shape[1]
    mean, scale = _column_moments(rows)
    n_axes = min(d, most)
    start = torch.randn(d, min(d, n_axes + OVERSAMPLED), generator=generator).to(device)
    basis = torch.linalg.qr(start).Q
    for _ in range(ITERATIONS if basis.shape[1] < d else 0):
        product = torch.zeros_like(basis)
        for _, z in _standardised(rows, mean, scale):
            product += z.T @ (z @ basis)
        basis = torch.linalg.qr(product / len(rows)).Q
    within = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.float64, device=device)
    for _, z in _standardised(rows, mean, scale):
        inside = z @ basis
        within += (inside.T @ inside).double()
    axes = torch.linalg.eigh(within / len(rows)).eigenvectors.flip(1)[:, :n_axes]
    return Components(mean, scale, basis @ axes.float())


def _standardised(
    rows: Rows, mean: Float[Tensor, "d"], scale: Float[Tensor, "d"]
) -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
    for part, x in rows.chunks(1):
        yield part, ((x - mean) / scale).float()


def _column_moments(rows: Rows) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Mean and standard deviation of each column; 1 for a constant one."""
    pivot = rows[:1].mean(0)  # near the data, so that sums of squares cancel little
    total = torch.zeros(len(pivot), dtype=torch.float64, device=pivot.device)
    squares = torch.zeros_like(total)
    for _, x in rows.chunks(1):
        away = (x - pivot).double()
        total += away.sum(0)
        squares += away.square().sum(0)
    away_mean = total / len(rows)
    deviation = (squares / len(rows) - away_mean.square()).clamp_(min=0).sqrt_()
    mean = pivot.double() + away_mean
    varies = deviation > CONSTANT * torch.finfo(rows.dtype).eps * mean.abs()
    return mean.to(rows.dtype), deviation.where(varies, 1.0).float()
