"""CC: contrastive clustering (arXiv 2009.09687).

    L = L_instance + L_cluster + L_entropy

Rows and columns of one matrix: an instance head contrasts the images of a batch, and a cluster head, which gives each
image's probability of being in each cluster, contrasts the clusters. The head gives the clusters; there is no k-means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from shoal import distributed
from shoal.losses import cluster_contrast, cluster_entropy, nt_xent
from shoal.methods.base import Method, MethodConfig, on_views
from shoal.models import Backbone, plain_mlp
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class CCConfig(MethodConfig):
    """Settings of CC; the defaults are the paper's."""

    name: ClassVar[str] = "cc"
    has_cluster_head: ClassVar[bool] = True

    instance_temperature: Annotated[float, Gt(0)] = 0.5
    """T of the contrast between images."""
    cluster_temperature: Annotated[float, Gt(0)] = 1.0
    """T of the contrast between clusters."""
    entropy_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the term that keeps clusters from emptying."""
    dim: Annotated[int, Gt(0)] = 128
    """Width of the instance head."""


class CC(Method):
    """Backbone f, instance head g and cluster head c."""

    config_class = CCConfig

    def __init__(self, config: CCConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.instance_head = plain_mlp(backbone.n_features, config.dim)
        self.cluster_head = plain_mlp(backbone.n_features, n_clusters)

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """Instance contrast (eq. 3) and cluster contrast (eq. 6), the latter with its entropy term (eq. 7)."""
        config = self.config
        h1, h2 = on_views(self.backbone, batch.view1, batch.view2, joined=True)
        zs = [F.normalize(self.instance_head(h).float(), dim=-1) for h in (h1, h2)]
        z1, z2, p1, p2 = distributed.gather_all(*zs, *(self._probabilities(h) for h in (h1, h2)))
        return {
            "instance": nt_xent(z1, z2, config.instance_temperature),
            "cluster": cluster_contrast(p1, p2, config.cluster_temperature),
            "entropy": config.entropy_weight * (cluster_entropy(p1) + cluster_entropy(p2)),
        }

    def _probabilities(self, h: Float[Tensor, "b f"]) -> Float[Tensor, "b k"]:
        logits: Tensor = self.cluster_head(h)
        return logits.float().softmax(dim=-1)

    @property
    def encoder(self) -> nn.Sequential:
        """c∘f, without the softmax."""
        return nn.Sequential(self.backbone, self.cluster_head)

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """norm(softmax(c(f(x)))): the nearest of ``head_centers`` is the most likely cluster."""
        return F.normalize(self._probabilities(self.backbone(images)), dim=-1)

    def head_centers(self) -> Float[Tensor, "k k"]:
        """A unit vector for each cluster: the one-hot probabilities."""
        last = self.cluster_head[-1]
        assert isinstance(last, nn.Linear)
        return torch.eye(last.out_features, device=last.weight.device)
