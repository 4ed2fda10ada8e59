"""SimSiam: exploring simple Siamese representation learning (arXiv 2011.10566).

BYOL without the target network: from one view, a predictor predicts the projection of the other, which gets no
gradient. This stop-gradient alone keeps the features from collapsing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from shoal.losses import negative_cosine
from shoal.methods.base import Method, MethodConfig, on_views
from shoal.models import Backbone, mlp
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class SimSiamConfig(MethodConfig):
    """Settings of SimSiam; the defaults are the paper's for CIFAR-10."""

    name: ClassVar[str] = "simsiam"

    dim: Annotated[int, Gt(0)] = 2048
    """Width d of the projection that is clustered."""
    layers: Annotated[int, Ge(2)] = 2
    """Linear layers of the projector: 2 for CIFAR, 3 for larger images."""
    bottleneck: Annotated[int, Gt(0)] = 512
    """Width of the predictor's hidden layer, a quarter of the projection's."""


class SimSiam(Method):
    """Backbone f and projector g, shared by both views, and the predictor h."""

    config_class = SimSiamConfig

    def __init__(self, config: SimSiamConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.online = nn.Sequential(backbone, _projector(backbone.n_features, config.dim, config.layers))
        self.predictor = mlp(config.dim, config.bottleneck, config.dim)

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """L = −½·[cos(h(z_1), sg z_2) + cos(h(z_2), sg z_1)] with z = g(f(x)) (eq. 4), both views in one pass."""
        z1, z2 = on_views(self.online, batch.view1, batch.view2, joined=True)
        p1, p2 = on_views(self.predictor, z1, z2, joined=True)
        return {"simsiam": negative_cosine(p1, z2, p2, z1)}

    @property
    def encoder(self) -> nn.Sequential:
        """g∘f."""
        return self.online

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor's rate stays where it starts (section 4.2: it should follow the latest representations)."""
        steady = {"params": list(self.predictor.parameters()), "lr_decays": False}
        return [{"params": list(self.online.parameters())}, steady]


def _projector(n_in: int, dim: int, layers: int) -> nn.Sequential:
    """Linear–BN–ReLU, the first without a bias, and a last Linear–BN (section 3, "Baseline settings")."""
    parts: list[nn.Module] = []
    for layer in range(layers - 1):
        parts += [nn.Linear(n_in, dim, bias=layer > 0), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)]
        n_in = dim
    return nn.Sequential(*parts, nn.Linear(n_in, dim), nn.BatchNorm1d(dim))
