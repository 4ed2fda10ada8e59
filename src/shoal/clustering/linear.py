"""A linear head: clusters that were learned from labels, for new rows."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from shoal.clustering.inputs import ArrayOrTensor, SharesEstimator, as_input_type
from shoal.clustering.parameters import Array, hinting, precision_of
from shoal.clustering.rows import Metric, Rows, invalid_features_error, unit_length
from shoal.errors import UserError

SHRINKAGE = 0.1
"""Share of the within-class covariance that is replaced by a sphere of the same trace, so that it can be inverted."""

ABSENT = -1e4
"""Bias of a class without rows, which no row then belongs to."""


class LinearPosterior(nn.Module):
    """softmax((x − mean) · weightᵀ + bias), where x has unit length under the cosine."""

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        metric: Metric,
        mean: Float[Tensor, "d"],
        weight: Float32[Tensor, "k d"],
        bias: Float32[Tensor, "k"],
    ) -> None:
        super().__init__()
        self.cosine = metric == "cosine"
        for name, value in (("mean", mean), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, value)

    @property
    def n_clusters(self) -> int:
        """How many probabilities it gives."""
        return len(self.bias)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster, in the precision of the features, but at least float32."""
        return self.log_scores(features).softmax(1)

    def log_scores(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Log probability of each cluster but for a constant per row."""
        x = features.to(precision_of(features))
        x = (unit_length(x) if self.cosine else x) - self.mean.to(x)
        return torch.addmm(self.bias.to(x), x, self.weight.to(x).T)


class LinearHead(SharesEstimator):
    """Linear discriminant analysis with scikit-learn's interface, for labels that leave rows out.

    Classes are Gaussians of one covariance, equally likely: P(c | x) = softmax_c(x·Σ⁻¹μ_c − ½ μ_c·Σ⁻¹μ_c) (Fisher
    1936), whose weights are the centres μ_c, seen in coordinates in which all classes are spheres. Σ is shrunk towards
    a sphere. ``shoal.learning`` fits it to answers as well.

    Args:
        n_clusters: k.
        metric: "cosine" scales rows to unit length.

    Attributes:
        mean_: float32 (d,), subtracted from rows.
        weight_: float32 (k, d).
        bias_: float32 (k,).
        labels_: int64 (n,), the most probable cluster of each row, after ``fit``.
        n_features_in_: d.
    """

    @hinting
    def __init__(self, n_clusters: int = 8, *, metric: Metric = "cosine") -> None:
        self.n_clusters = n_clusters
        self.metric = metric

    def fit(self, X: ArrayOrTensor, y: ArrayOrTensor) -> LinearHead:
        """Fit it to rows (n, d) and their clusters y (n,), −1 for a row that has none.

        Raises:
            UserError: labels that do not fit, none from 0 on; NaN, infinity, a zero row under the cosine.
        """
        features = self._features(X, reset=True)
        labels = torch.as_tensor(y).to(features.device, torch.int64)
        if labels.shape != (len(features),) or not (labels >= 0).any() or int(labels.max()) >= self.n_clusters:
            raise UserError(f"y must be ({len(features)},) clusters below {self.n_clusters}, some of them from 0 on.")
        known = (labels >= 0).nonzero()[:, 0]
        rows = Rows(features[known], self.metric)
        mean, _ = rows.moments()
        z = rows[:] - mean
        weights = torch.ones(len(z), device=z.device, dtype=z.dtype)
        sums, counts = class_sums(z, labels[known], weights, self.n_clusters)
        self.mean_: Array | Tensor = mean.float()
        weight, bias = discriminant(z.T @ z, sums, counts)
        self.weight_: Array | Tensor = weight.float()
        self.bias_: Array | Tensor = bias.float()
        self.labels_: Array | Tensor = as_input_type(X, self._likeliest(features))
        return self

    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        module = self.as_module().to(features.device)
        shares = torch.empty(len(features), len(self.bias_), dtype=precision_of(features), device=features.device)
        for part in Rows(features, self.metric).parts(shares.shape[1]):
            shares[part] = module(features[part])
        if not torch.isfinite(shares).all():
            raise invalid_features_error(features)
        return shares

    def as_module(self) -> LinearPosterior:
        """The probabilities as a network."""
        return LinearPosterior(self.metric, *(torch.as_tensor(each) for each in (self.mean_, self.weight_, self.bias_)))


def class_sums(
    z: Float[Tensor, "n c"], labels: Int64[Tensor, "n"], weights: Float[Tensor, "n"], k: int
) -> tuple[Float[Tensor, "k c"], Float[Tensor, "k"]]:
    """Weighted sum of the rows of each class, and its weight."""
    sums = z.new_zeros(k, z.shape[1]).index_add_(0, labels, z * weights[:, None])
    return sums, z.new_zeros(k).index_add_(0, labels, weights)


def discriminant(
    scatter: Float[Tensor, "c c"], sums: Float[Tensor, "k c"], counts: Float[Tensor, "k"]
) -> tuple[Float[Tensor, "k c"], Float[Tensor, "k"]]:
    """Weights and biases of the linear discriminant of classes, W = M Σ⁻¹ and b_c = −½ μ_c·w_c.

    Args:
        scatter: Σ_i w_i z_i z_iᵀ over all rows.
        sums: Σ_i w_i z_i over the rows of each class.
        counts: Σ_i w_i of each class; one without rows gets no weights and a bias that rules it out.
    """
    scatter, sums, counts = scatter.double(), sums.double(), counts.double()
    present = counts > 0
    means = sums / counts.where(present, 1.0)[:, None]
    within = (scatter - (means.T * counts) @ means) / counts.sum()
    spread = within.diagonal().clamp(min=0).mean()
    # Rows that all equal their class's mean have no spread: then any sphere tells them apart.
    least = torch.finfo(torch.float32).eps * (scatter.diagonal().mean() / counts.sum()).clamp(min=1e-12)
    sphere = torch.eye(len(within), dtype=within.dtype, device=within.device) * torch.maximum(spread, least)
    weight = torch.linalg.solve((1 - SHRINKAGE) * within + SHRINKAGE * sphere, means.T).T
    bias = -0.5 * (weight * means).sum(1)
    return weight.where(present[:, None], 0.0).float(), bias.where(present, ABSENT).float()
