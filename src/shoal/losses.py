"""The published losses, one pure function each: tensors in, a float32 scalar out.

Where a docstring says "unit rows", the method has normalised them; the others normalise themselves.

No function here gathers across ranks, reads a config or keeps state: the method passes the features of the global
batch (house rules 1 and 2 in ``docs/architecture.md``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

Parameters = ParamSpec("Parameters")
Loss = TypeVar("Loss")

Reduction = Literal["mean", "cluster_mean", "sum"]
"""Of pairs of clusters: their mean, the mean over clusters of the sum over the others, or their sum."""


def in_float32(loss: Callable[Parameters, Loss]) -> Callable[Parameters, Loss]:
    """Compute a loss, a function of tensors, in float32 even if the networks run in bfloat16."""

    @functools.wraps(loss)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Loss:
        device = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)).device
        with torch.autocast(device.type, enabled=False):
            return loss(*args, **kwargs)

    return wrapped


@in_float32
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


def one_hot(labels: Int64[Tensor, "b"], n_clusters: int) -> Float[Tensor, "b k"]:
    """The assignment to clusters; rows labelled −1 are in no column."""
    # torch's own one_hot asks the device for the labels' range.
    return (labels[:, None] == torch.arange(n_clusters, device=labels.device)).float()


@in_float32
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
        online: features of the batch, not normalised; the only input with a gradient.
        target: features of the same images from the target network; no gradient.
        labels: pseudo-label of each row in [0, n_clusters); −1 for a row that belongs to no cluster.
        n_clusters: k, the number of prototypes.
        temperature: T.

    Returns:
        The loss; zero (with a zero gradient) when the batch holds no clustered row.
    """
    assignment = one_hot(labels, n_clusters)
    present = assignment.sum(0) > 0
    mu = prototypes(online, assignment)
    mu_target = prototypes(target.detach(), assignment)

    logits = (mu @ mu.T / temperature).masked_fill(~present, -10.0)
    positives = (mu * mu_target).sum(-1) / temperature
    logits = torch.diagonal_scatter(logits, positives)
    rows = torch.logsumexp(logits, dim=-1) - positives
    return rows.where(present, 0.0).sum() / present.sum().clamp(min=1)


@in_float32
def consistent_labels(target: Float[Tensor, "b d"], labels: Int64[Tensor, "b"], most: int = 50) -> Int64[Tensor, "b"]:
    """DCBoost's filter: the labels of the rows whose k* nearest neighbours in the batch all have their label; else −1.

    ok(i, k) = [the k nearest neighbours of row i share its label], n_k = Σ_i ok(i, k) and k* = argmax_k k·n_k, so it
    suits itself to the batch: far neighbours in clear clusters, near ones in mixed ones. The smallest k* wins a tie.
    ("DCBoost", arXiv 2511.21193, adaptive filter.)

    Args:
        target: features of the batch from the target network, of any length; neighbours are by cosine.
        labels: pseudo-label of each row; −1 for a row of no cluster, which is neither kept nor anyone's neighbour.
        most: m, the largest k that is tried.
    """
    b = len(labels)
    directions = F.normalize(target.detach().float(), dim=-1)
    itself = torch.eye(b, dtype=torch.bool, device=labels.device)
    cosines = (directions @ directions.T).masked_fill(itself | (labels < 0), -torch.inf)
    nearest = cosines.topk(min(most, b), dim=1)
    same = (labels[nearest.indices] == labels[:, None]) & (nearest.values > -torch.inf)
    reach = same.cumprod(1).sum(1)  # ok(i, k) = [reach_i ≥ k]
    k = torch.arange(1, same.shape[1] + 1, device=labels.device)
    best = 1 + (k * (reach[:, None] >= k).sum(0)).argmax()
    kept: Tensor = labels.where(reach >= best, -1)
    return kept


@in_float32
def cluster_concentration(
    online: Float[Tensor, "b d"], target: Float[Tensor, "b d"], labels: Int64[Tensor, "b"], n_clusters: int
) -> Float[Tensor, ""]:
    """L_pos of DCBoost: the rows of a cluster are drawn together, those of the two networks onto each other.

    L_pos = mean_c w_c/2 · Σ_{i,j∈c} ‖z_i − t_j‖² with z, t = the features at unit length, S_c = Σ_{i∈c} z_i,
    T_c = Σ_{i∈c} t_i and w_c = 1/(‖S_c‖·‖T_c‖), through which the gradient flows (arXiv 2511.21193). Since
    ‖z − t‖² = 2 − 2·z·t, no pair need be looked at: L_pos = mean_c (n_c² − S_c·T_c) / (‖S_c‖·‖T_c‖).

    Args:
        online: features of the batch; the only input with a gradient.
        target: features of the same images from the target network; no gradient.
        labels: pseudo-label of each row in [0, n_clusters); −1 for a row that is left out.
        n_clusters: how many clusters there are; those without a row in the batch are left out of the mean.

    Returns:
        The loss; zero (with a zero gradient) when no row has a cluster.
    """
    assignment = one_hot(labels, n_clusters)
    sizes = assignment.sum(0)
    s = assignment.T @ F.normalize(online.float(), dim=-1)
    t = assignment.T @ F.normalize(target.detach().float(), dim=-1)
    lengths: Tensor = (s.norm(dim=1) * t.norm(dim=1)).where(sizes > 0, 1.0).clamp(min=1e-12)
    rows = (sizes.square() - (s * t).sum(1)) / lengths
    return rows.sum() / (sizes > 0).sum().clamp(min=1)


@in_float32
def prototype_repulsion(
    online: Float[Tensor, "b d"],
    target: Float[Tensor, "b d"],
    labels: Int64[Tensor, "b"],
    n_clusters: int,
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """L_neg of DCBoost: the prototypes of different clusters repel each other.

    L_neg = −Σ_{c₁≠c₂} ‖μ_{c₁} − μ'_{c₂}‖² over the clusters in the batch, with μ from the online features and μ' from
    the target's (arXiv 2511.21193). What is known of the paper prints the plain sum.

    Args:
        online: features of the batch; the only input with a gradient.
        target: features of the same images from the target network; no gradient.
        labels: pseudo-label of each row in [0, n_clusters); −1 for a row that is left out.
        n_clusters: how many clusters there are.
        reduction: what becomes of the pairs.

    Returns:
        The loss; zero (with a zero gradient) with fewer than two clusters in the batch.
    """
    assignment = one_hot(labels, n_clusters)
    present = assignment.sum(0) > 0
    mu, mu_target = prototypes(online, assignment), prototypes(target.detach(), assignment)
    pairs = (present[:, None] & present).fill_diagonal_(False)
    squares = (2 - 2 * mu @ mu_target.T).where(pairs, 0.0)
    number = {"mean": pairs.sum(), "cluster_mean": present.sum(), "sum": torch.ones_like(present.sum())}[reduction]
    return -squares.sum() / number.clamp(min=1)


@in_float32
def coding_rate(features: Float[Tensor, "v b d"], precision: float = 0.2) -> Float[Tensor, ""]:
    """Coding rate of a batch, the larger the more directions its features fill, as a mean over the views.

    R(Z) = ½·logdet(I + d/(b·ε²)·ZᵀZ), with unit rows (EMP-SSL, arXiv 2304.03977).

    Args:
        features: of each of v views of b images, not normalised.
        precision: ε², the squared error to which the features are coded.
    """
    rows = F.normalize(features.float(), dim=-1)
    _, b, d = rows.shape
    # det(I + a·ZᵀZ) = det(I + a·ZZᵀ): the smaller of both
    gram = rows @ rows.mT if b < d else rows.mT @ rows
    ones = torch.eye(gram.shape[1], device=gram.device)
    # positive definite by construction, so its Cholesky factor has the determinant
    factor: Tensor = torch.linalg.cholesky_ex(ones + d / (b * precision) * gram).L
    return factor.diagonal(dim1=1, dim2=2).log().sum(1).mean()


@in_float32
def spread_of_views(features: Float[Tensor, "v b d"]) -> Float[Tensor, ""]:
    """How far an image's views are from their mean: L = −mean_{v,i} cos(z_vi, z̄_i), z̄_i = mean_v z_vi of unit z_vi.

    EMP-SSL, arXiv 2304.03977; the gradient goes through the mean as well.
    """
    rows = F.normalize(features.float(), dim=-1)
    return -F.cosine_similarity(rows, rows.mean(0, keepdim=True), dim=-1).mean()


@in_float32
def negative_cosine(
    p1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"], p2: Float[Tensor, "b d"], z1: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    """SimSiam's symmetric loss: each prediction should match the other view's projection, which gets no gradient.

    L = −½·[cos(p_1, sg z_2) + cos(p_2, sg z_1)], averaged over the batch (arXiv 2011.10566, eq. 4).
    """
    forth = F.cosine_similarity(p1.float(), z2.detach().float(), dim=-1)
    back = F.cosine_similarity(p2.float(), z1.detach().float(), dim=-1)
    return -(forth.mean() + back.mean()) / 2


@in_float32
def nt_xent(z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"], temperature: float) -> Float[Tensor, ""]:
    """SimCLR's normalised temperature-scaled cross-entropy over the 2b views; unit rows.

    ℓ_i = −log( exp(z_i·z_j/T) / Σ_{k≠i} exp(z_i·z_k/T) ) where j is the other view of i, averaged over all 2b views
    (arXiv 2002.05709, eq. 1). The negatives of a view are the 2b − 2 views of other images.
    """
    z = torch.cat((z1, z2)).float()
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(logits, partner)


@in_float32
def info_nce(
    query: Float[Tensor, "b d"], key: Float[Tensor, "b d"], queue: Float[Tensor, "m d"], temperature: float
) -> Float[Tensor, ""]:
    """InfoNCE against a queue of older keys; unit rows. Keys and queue get no gradient.

    ℓ_i = −log( exp(q_i·k_i/T) / (exp(q_i·k_i/T) + Σ_j exp(q_i·queue_j/T)) ), averaged over the batch
    (MoCo, arXiv 1911.05722, eq. 1).
    """
    query = query.float()
    positives = (query * key.detach().float()).sum(-1, keepdim=True)
    negatives = query @ queue.detach().float().T
    logits = torch.cat((positives, negatives), dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))


@in_float32
def proto_nce(
    query: Float[Tensor, "b d"],
    labels: Int64[Tensor, "b"],
    centers: Float[Tensor, "k d"],
    concentration: Float[Tensor, "k"],
    negatives: Int64[Tensor, "r"],
) -> Float[Tensor, ""]:
    """The prototype half of PCL's ProtoNCE at one granularity; unit rows and centres.

    ℓ_i = −log( exp(q_i·c_s/φ_s) / (exp(q_i·c_s/φ_s) + Σ_j exp(q_i·c_j/φ_j)) ) where s is the cluster of i and j runs
    over the negatives, averaged over the rows that have a cluster (PCL, arXiv 2005.04966, eq. 11).

    Args:
        query: features of a batch; the only input with a gradient.
        labels: cluster of each row in [0, k); −1 for a row that belongs to none.
        centers: the prototypes c.
        concentration: φ, a temperature for each prototype.
        negatives: indices of the sampled prototypes, to which no row of the batch may belong.

    Returns:
        The loss; zero (with a zero gradient) when no row has a cluster.
    """
    known = labels >= 0
    own = labels.clamp(min=0)
    query, scaled = query.float(), centers.float() / concentration.float()[:, None]
    positives = (query * scaled[own]).sum(-1, keepdim=True)
    logits = torch.cat((positives, query @ scaled[negatives].T), dim=1)
    rows = torch.logsumexp(logits, dim=1) - logits[:, 0]
    return rows.where(known, 0.0).sum() / known.sum().clamp(min=1)


@in_float32
def cluster_contrast(p1: Float[Tensor, "b k"], p2: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, ""]:
    """NT-Xent between the clusters of two views: the 2k columns of the assignments, by cosine.

    A column holds the members of a cluster. The same cluster in the other view is its positive, all other clusters of
    both views are its negatives (CC, arXiv 2009.09687, eq. 6).
    """
    return nt_xent(F.normalize(p1.float().T, dim=-1), F.normalize(p2.float().T, dim=-1), temperature)


@in_float32
def cluster_entropy(p: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """How far the clusters of a view are from equal sizes: log k − H(p̄) = log k + Σ_c p̄_c·log p̄_c, p̄ = column means.

    Zero for equal sizes, log k when one cluster holds everything (CC, arXiv 2009.09687, eq. 7, where −H is added).
    """
    sizes = p.float().mean(0)
    # At 0 the gradient of x·log x is −∞, which the softmax would multiply by 0.
    negative_entropy: Tensor = torch.special.xlogy(sizes, sizes.clamp(min=1e-30)).sum()
    return math.log(len(sizes)) + negative_entropy


@in_float32
def balanced_cross_entropy(logits: Float[Tensor, "b k"], labels: Int64[Tensor, "b"]) -> Float[Tensor, ""]:
    """L_pos of IDC, of images that a person gave a cluster, and L_easy, of those that were given one for confidence.

    L = Σ_i w_i · (−log p_i(y_i)) / Σ_i w_i with w_i = b / n_{y_i}, so that each cluster in the batch counts the same
    ("Interactive Deep Clustering via Value Mining", IDC, NeurIPS 2024, as its code weighs them).

    Args:
        logits: of the strong views.
        labels: cluster of each; rows with −1 are left out.

    Returns:
        The loss; zero (with a zero gradient) if no row has a cluster.
    """
    known = labels >= 0
    counts = torch.zeros(logits.shape[1], device=logits.device).index_add_(0, labels.clamp(min=0), known.float())
    weights = (1 / counts[labels.clamp(min=0)]).where(known, 0.0)
    own = -logits.float().log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return (weights * own.where(known, 0.0)).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


@in_float32
def ruled_out_loss(logits: Float[Tensor, "b k"], ruled_out: Int64[Tensor, "b"]) -> Float[Tensor, ""]:
    """L_neg of IDC, of images that are in none of the clusters that a person was shown.

    L = mean_i −log max(1 − p_i(c_i), 1e-5) (IDC, NeurIPS 2024).

    Args:
        logits: of the strong views.
        ruled_out: c, one of each image's ruled-out clusters, drawn anew for each batch.
    """
    p = logits.float().softmax(1).gather(1, ruled_out[:, None])[:, 0]
    return -(1 - p).clamp(min=1e-5).log().mean()


def confident_labels(
    probabilities: Float[Tensor, "b k"],
    earlier: Int64[Tensor, "b"],
    *,
    share: float = 0.2,
    threshold: float = 0.99,
) -> Int64[Tensor, "b"]:
    """Clusters of the images for IDC's L_easy, from the probabilities of their clean views; −1 for none.

    An image keeps the cluster it had while its highest probability is at least the threshold. Of the others predicted
    to be in each cluster the most confident join, at most ⌈share · b / k⌉, if they are more so than the threshold (IDC,
    NeurIPS 2024).

    Args:
        probabilities: p of the batch.
        earlier: the clusters that the images had by this function before, −1 for none.
        share: of the batch that may join at most.
        threshold: of the confidence.
    """
    b, k = probabilities.shape
    confidence, predicted = probabilities.max(1)
    labels = earlier.where(confidence >= threshold, -1)
    most = math.ceil(share * b / k)
    # The rank of each image among those of its predicted cluster, most confident first.
    order = confidence.argsort(descending=True, stable=True)
    order = order[predicted[order].argsort(stable=True)]
    counts = (predicted[:, None] == torch.arange(k, device=predicted.device)).sum(0)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(b, device=order.device) - first[predicted[order]]
    joins = (labels < 0) & (rank < most) & (confidence > threshold)
    return predicted.where(joins, labels)
