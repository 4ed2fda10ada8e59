"""PCL: prototypical contrastive learning of unsupervised representations (arXiv 2005.04966).

    L = L_InfoNCE + λ·L_ProtoNCE

MoCo, plus a term in which each query must find the prototype of its cluster among others, in several clusterings from
coarse to fine. The spread of a cluster sets its prototype's temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, MinLen
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from shoal import distributed
from shoal.errors import UserError
from shoal.losses import info_nce, proto_nce
from shoal.methods.base import Method, MethodConfig, check_queue, check_splits, shuffled_pass
from shoal.models import Backbone, Queue, Target, plain_mlp, split_batch_norm
from shoal.types import Batch, Clustering

LEAST = 0.1
"""Lower bound of φ as a fraction of its mean: percentiles alone allow 0 if a tenth of the clusters hold duplicates."""


@dataclass(frozen=True)
class PCLConfig(MethodConfig):
    """Settings of PCL; the defaults are those of its published clustering results on CIFAR-10."""

    name: ClassVar[str] = "pcl"

    granularities: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] = (250, 500, 1000)
    """Numbers of prototypes, one clustering each; several times the number of clusters to find."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """T of the InfoNCE loss, and the mean of the prototypes' temperatures."""
    momentum: Annotated[float, Ge(0), Le(1)] = 0.999
    """EMA momentum of the network that makes the keys."""
    queue: Annotated[int, Gt(0)] = 4096
    """Keys kept as negatives, and negative prototypes drawn per step."""
    proto_weight: Annotated[float, Ge(0)] = 1.0
    """λ, the weight of ProtoNCE: 1 in the paper."""
    head: Literal["linear", "mlp"] = "mlp"
    """The projector: one Linear layer, or Linear–ReLU–Linear."""
    symmetric: bool = False
    """Use each view as query and as key: both losses are the sum of both directions."""
    dim: Annotated[int, Gt(0)] = 128
    """Width of the embedding that is clustered."""
    bn_splits: Annotated[int, Ge(1)] = 1
    """Parts of the batch with their own batch-norm statistics: several on one device, 1 on several devices."""

    @property
    def parts(self) -> int:
        """Those with their own batch-norm statistics."""
        return self.bn_splits

    @property
    def uses_clusters(self) -> bool:
        """ProtoNCE does."""
        return True

    def check_fits(self, per_step: int, per_pass: int, n_images: int) -> None:
        """Raise a UserError when there are more prototypes than images, or queue or batch do not fit."""
        if max(self.granularities) > n_images:
            raise UserError(
                f"{max(self.granularities)} prototypes need at least as many images, and there are {n_images}: "
                "lower --method.granularities."
            )
        check_queue(self.queue, per_step * (1 + self.symmetric))
        check_splits(self.bn_splits, per_pass)


class PCL(Method):
    """Online network q = norm(g(f(x))), the target network that makes the keys, and the queue of keys."""

    config_class = PCLConfig

    def __init__(self, config: PCLConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.generator = generator
        self.granularities = config.granularities
        n = backbone.n_features
        head = plain_mlp(n, config.dim) if config.head == "mlp" else nn.Linear(n, config.dim)
        self.online = split_batch_norm(nn.Sequential(backbone, head), config.bn_splits)
        self.target = Target(self.online, config.momentum)
        self.queue = Queue(config.queue, config.dim)

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """InfoNCE from the start; ProtoNCE, averaged over the granularities, once there are clusters (eq. 11)."""
        queries, keys = [batch.view1], [batch.view2]
        if self.config.symmetric:
            queries, keys = [batch.view1, batch.view2], [batch.view2, batch.view1]
        ks = [F.normalize(shuffled_pass(self.target, x, self.generator).float(), dim=-1) for x in keys]
        qs = [F.normalize(self.online(x).float(), dim=-1) for x in queries]
        mine = distributed.part(len(batch.index))
        losses = [info_nce(q, k[mine], self.queue.keys, self.config.temperature) for q, k in zip(qs, ks, strict=True)]
        terms = {"info_nce": torch.stack(losses).sum()}
        for k in reversed(ks):  # as MoCo: view 1's keys before view 2's
            self.queue.enqueue(k, batch.index)
        if clusterings:
            everyone = distributed.gather_all(*qs)
            losses = [self._proto_nce(everyone, c.labels[batch.index], c) for c in clusterings]
            terms["proto_nce"] = self.config.proto_weight * torch.stack(losses).mean()
        return terms

    def _proto_nce(
        self, queries: Sequence[Float[Tensor, "b d"]], labels: Int64[Tensor, "b"], clustering: Clustering
    ) -> Float[Tensor, ""]:
        """ProtoNCE of one clustering; zero when the batch belongs to all clusters that have images: no negatives."""
        k = len(clustering.centers)
        euclidean = (2 * clustering.distances).sqrt()  # of unit vectors: ‖v − c‖² = 2·(1 − cos)
        phi = concentration(euclidean, clustering.labels, k, self.config.temperature)
        negatives, n_absent = self._draw_negatives(labels, clustering)
        losses = [proto_nce(q, labels, clustering.centers, phi, negatives) for q in queries]
        return torch.stack(losses).sum() * (n_absent > 0)

    def _draw_negatives(
        self, labels: Int64[Tensor, "b"], clustering: Clustering
    ) -> tuple[Int64[Tensor, "r"], Int64[Tensor, ""]]:
        """As many as the queue is long, with replacement, of the clusters that no sample of the batch belongs to.

        A cluster without images is not a negative: where images repeat, its centre lies on that of another cluster.
        """
        k = len(clustering.centers)
        absent = _occupied(clustering.labels, k) & ~_occupied(labels, k)
        absent_first = absent.int().argsort(descending=True, stable=True)
        n_absent = absent.sum()
        draws = torch.rand(self.config.queue, generator=self.generator, device=labels.device)
        return absent_first[(draws * n_absent).long().clamp(max=k - 1)], n_absent

    @property
    def encoder(self) -> nn.Sequential:
        """g'∘f', the network that makes the keys."""
        return self.target.network

    def after_step(self, progress: float) -> None:
        """The target network follows the new weights, and the keys of the step enter the queue."""
        self.target.follow(self.online, progress)
        self.queue.flush()


def _occupied(labels: Int64[Tensor, "n"], k: int) -> Bool[Tensor, "{k}"]:
    """Which clusters have rows, without waiting for the device; −1 is none."""
    occupied = torch.zeros(k + 1, dtype=torch.bool, device=labels.device)
    occupied[labels.where(labels >= 0, k)] = True
    return occupied[:k]


def concentration(
    distances: Float[Tensor, "n"], labels: Int64[Tensor, "n"], n_clusters: int, temperature: float
) -> Float[Tensor, "k"]:
    """How wide each cluster is: φ_c = mean distance to the centre / log(n_c + 10) (eq. 12, with α = 10).

    A cluster of one point takes the largest φ; all are then clipped to their 10th and 90th percentiles, raised to a
    tenth of their mean at least, and scaled to the mean T, so that they serve as temperatures. An empty cluster counts
    in none of this and gets T.

    Args:
        distances: ‖v − c‖ of each row to the centre of its cluster.
        labels: cluster of each row; −1 for none.
        n_clusters: k.
        temperature: T.
    """
    known = labels >= 0
    place = labels.where(known, n_clusters)
    sums = torch.zeros(n_clusters + 1, dtype=torch.float64, device=labels.device)
    sums.index_add_(0, place, distances.double().where(known, 0.0))
    # Not bincount, which waits for the device to learn how many there are.
    sizes = torch.zeros_like(sums).index_add_(0, place, torch.ones_like(place, dtype=sums.dtype))[:n_clusters]
    phi = sums[:n_clusters] / sizes.clamp(min=1) / (sizes + 10).log()
    phi = phi.where(sizes > 1, phi.where(sizes > 1, 0.0).max()).where(sizes > 0, torch.nan)
    bounds = torch.nanquantile(phi, torch.tensor([0.1, 0.9], dtype=torch.float64, device=phi.device))
    phi = phi.clamp(bounds[0], bounds[1])
    # A cluster of duplicates has φ = 0, and a temperature of 0 would make the loss explode. If all clusters are like
    # that, any temperature will do.
    phi = phi.clamp(min=(LEAST * phi.nanmean()).clamp(min=1e-12))
    return (temperature * phi / phi.nanmean()).nan_to_num(temperature).float()
