"""Clusterings as networks: features in, the probability of each cluster out, as ``predict_proba`` has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from shoal.errors import UserError

TEMPERATURE = 0.1
"""By which TEMI's head divides its logits (Adaloglou et al. 2023, arXiv 2303.17896)."""

VOTERS = 10


class CentersModule(nn.Module):
    """softmax(−d² / (2 σ²)) over centres, with d² = 2 (1 − cos) for the cosine: the posterior of k-means."""

    centers: Tensor

    def __init__(self, centers: Float[Tensor, "k d"], metric: str, sigma2: float) -> None:
        super().__init__()
        self.cosine = metric == "cosine"
        centers = centers.double()
        # In float64, in which rows far from the origin lose no digits.
        self.register_buffer("centers", F.normalize(centers) if self.cosine else centers)
        self.scale = 1 / max(2 * sigma2, torch.finfo(torch.float32).tiny)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        x = features.double()
        x = F.normalize(x) if self.cosine else x
        squared = self.centers.square().sum(1) - 2 * x @ self.centers.T  # ‖x‖² is the same for all
        return (squared * -self.scale).softmax(1).float()


class GaussiansModule(nn.Module):
    """Responsibilities of Gaussians with a variance for each feature, or one for all."""

    shift: Tensor
    precisions: Tensor
    weighted: Tensor
    constant: Tensor

    def __init__(
        self,
        weights: Float[Tensor, "k"],
        means: Float[Tensor, "k d"],
        variances: Float[Tensor, "k d"] | Float[Tensor, "k"],
        metric: str,
    ) -> None:
        super().__init__()
        means, variances = means.double(), variances.double()
        variances = variances[:, None].expand_as(means) if variances.ndim == 1 else variances
        self.cosine = metric == "cosine"
        self.register_buffer("shift", means.mean(0))
        self.register_buffer("precisions", 1 / variances)
        away = means - self.shift
        self.register_buffer("weighted", away / variances)
        constant = weights.double().log() - (variances.log().sum(1) + means.shape[1] * math.log(2 * math.pi)) / 2
        self.register_buffer("constant", constant - (away.square() / variances).sum(1) / 2)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        x = features.double()
        x = (F.normalize(x) if self.cosine else x) - self.shift
        joint: Float64[Tensor, "b k"] = self.constant + x @ self.weighted.T - x.square() @ self.precisions.T / 2
        return joint.softmax(1).float()


class HeadModule(nn.Module):
    """TEMI's head: softmax(norm(GELU((x − mean) · first) · second) · last / 0.1), with biases."""

    mean: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], metric: str) -> None:
        super().__init__()
        self.cosine = metric == "cosine"
        for name in ("mean", "first", "first_bias", "second", "second_bias", "last"):
            self.register_buffer(name, tensors[name].float())

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        x = F.normalize(features) if self.cosine else features
        hidden = F.gelu((x - self.mean) @ self.first + self.first_bias)
        unit = F.normalize(hidden @ self.second + self.second_bias)
        return (unit @ self.last / TEMPERATURE).softmax(1)


class VotesModule(nn.Module):
    """Votes of the ten nearest of some rows, each with weight 1 / (distance + mean distance of the ten).

    A row that was itself among those votes for itself in ``predict_proba``. Here it is taken as a new one: in another
    program's arithmetic it would not find itself.
    """

    mean: Tensor
    rows: Tensor
    votes: Tensor

    def __init__(self, rows: Float[Tensor, "m d"], labels: Int64[Tensor, "m"], n_clusters: int, metric: str) -> None:
        super().__init__()
        self.cosine = metric == "cosine"
        rows = F.normalize(rows.float()) if self.cosine else rows.float()
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("rows", rows - rows.mean(0))
        self.register_buffer("votes", F.one_hot(labels, n_clusters).float())
        self.voters = min(VOTERS, len(rows))

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Probability of each cluster."""
        x = (F.normalize(features) if self.cosine else features) - self.mean
        squared = x.square().sum(1, keepdim=True) - 2 * x @ self.rows.T + self.rows.square().sum(1)
        least, near = squared.clamp(min=0).topk(self.voters, largest=False)
        distances = least / 2 if self.cosine else least.sqrt()
        weights = 1 / (distances + distances.mean(1, keepdim=True)).clamp(min=torch.finfo(torch.float32).tiny)
        shares = weights / weights.sum(1, keepdim=True)
        return (shares[:, :, None] * self.votes[near]).sum(1)


def as_module(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of a saved clustering, from what ``state_of`` says of it.

    Raises:
        UserError: it is one that there is no network for.
    """
    kind, metric = header["estimator"], header["metric"]
    if kind in ("KMeans", "MiniBatchKMeans"):
        return CentersModule(tensors["cluster_centers_"], metric, header["variance"])
    if kind == "GaussianMixture" and header["covariance_type"] in ("diag", "spherical"):
        return GaussiansModule(tensors["weights_"], tensors["means_"], tensors["covariances_"], metric)
    if kind == "TEMI":
        return HeadModule(tensors, metric)
    if kind == "UMAPKMeans":
        return VotesModule(tensors["rows_"], tensors["row_labels_"], header["n_clusters"], metric)
    raise UserError(f"a clustering by {kind} cannot be exported: cluster by kmeans, umap-kmeans, temi or gmm (diag).")
