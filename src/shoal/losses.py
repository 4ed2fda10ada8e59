"""The published losses, one pure function each: tensors in, a float32 scalar out.

No function here gathers across ranks, looks at a config or keeps a state: the method hands over the features of the
whole world batch (house rules 1 and 2 in ``docs/architecture.md``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

Parameters = ParamSpec("Parameters")


def _in_float32(loss: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
    """Keep a loss's products in float32 when the networks around it run in bfloat16."""

    @functools.wraps(loss)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Tensor:
        device = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)).device
        with torch.autocast(device.type, enabled=False):
            return loss(*args, **kwargs)

    return wrapped


@_in_float32
def positive_alignment(prediction: Float[Tensor, "b d"], target: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Positive sampling alignment: how far a prediction is from the target of its positive.

    L_psa = 2 − 2·cos(h(v), k), averaged over the batch (ProPos, arXiv 2111.11821, L_psa; with v = z it is BYOL's
    loss, arXiv 2006.07733, eq. 2). Neither input needs unit length. The target gets no gradient.
    """
    cosine = F.cosine_similarity(prediction.float(), target.detach().float(), dim=-1)
    return (2 - 2 * cosine).mean()


def prototypes(features: Float[Tensor, "b d"], assignment: Float[Tensor, "b k"]) -> Float[Tensor, "k d"]:
    """Mean direction of each cluster: μ_c = norm(Σ_i a_ic · norm(z_i)) (ProPos, arXiv 2111.11821).

    The assignment may be soft (rows that sum to one) or one-hot. A cluster without weight gets a zero vector.
    """
    directions = F.normalize(features.float(), dim=-1)
    return F.normalize(assignment.float().T @ directions, dim=-1)


@_in_float32
def prototype_scattering(
    online: Float[Tensor, "b d"],
    target: Float[Tensor, "b d"],
    labels: Int64[Tensor, "b"],
    n_clusters: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """Prototype scattering: a cluster's two prototypes attract, prototypes of different clusters repel.

    L_psl = mean_c [ −μ_c·μ'_c/T + log( exp(μ_c·μ'_c/T) + Σ_{j≠c} exp(μ_c·μ_j/T) ) ] with μ from the online features
    and μ' from the target's (ProPos, arXiv 2111.11821, L_psl). Clusters with no sample in the batch have no row in the
    mean; their columns take the published constant −10, which leaves them a share of exp(−10) each in the denominator.

    Args:
        online: features of the batch, neither normalised nor averaged; the gradient flows through these alone.
        target: features of the same images from the target network.
        labels: pseudo-label of each row in [0, n_clusters); −1 for a row that belongs to no cluster.
        n_clusters: k, the number of prototypes.
        temperature: T.

    Returns:
        The loss; zero (with a zero gradient) when the batch holds no clustered row.
    """
    # The extra column collects the rows labelled −1, which then drop out.
    assignment = F.one_hot(labels.where(labels >= 0, n_clusters), n_clusters + 1)[:, :n_clusters].float()
    present = assignment.sum(0) > 0
    mu = prototypes(online, assignment)
    mu_target = prototypes(target.detach(), assignment)

    logits = (mu @ mu.T / temperature).masked_fill(~present, -10.0)
    positives = (mu * mu_target).sum(-1) / temperature
    logits = torch.diagonal_scatter(logits, positives)
    rows = torch.logsumexp(logits, dim=-1) - positives
    return rows.where(present, 0.0).sum() / present.sum().clamp(min=1)
