"""EMP-SSL: extreme multi-patch self-supervised learning (arXiv 2304.03977).

All of many small views of an image should have the same features, and those of a batch should fill as many directions
as they can. There is no target network, predictor or negative, and much is learned in the first few passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from shoal import distributed
from shoal.losses import coding_rate, spread_of_views
from shoal.methods.base import Method, MethodConfig
from shoal.models import Backbone, mlp
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class EMPConfig(MethodConfig):
    """Settings of EMP-SSL; the weights are the paper's."""

    name: ClassVar[str] = "emp"
    many_views: ClassVar[bool] = True

    invariance: Annotated[float, Ge(0)] = 200.0
    """Weight of what draws the views of an image together; the coding rate has weight 1."""
    precision: Annotated[float, Gt(0)] = 0.2
    """ε² of the coding rate: a smaller one asks for features that are further apart."""
    dim: Annotated[int, Gt(0)] = 128
    """Width of the projection that is clustered."""
    hidden: Annotated[int, Gt(0)] = 512
    """Width of the hidden layer of the projector."""


class EMP(Method):
    """Backbone f and projector g."""

    config_class = EMPConfig

    def __init__(self, config: EMPConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.online = nn.Sequential(backbone, mlp(backbone.n_features, config.hidden, config.dim))

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """L = −λ·mean cos(z_v, z̄) − R(Z) over all views of the global batch, z = g(f(x)), in one pass."""
        views = (batch.view1, batch.view2, *batch.more)
        own = self.online(torch.cat(views)).float().chunk(len(views))
        z = torch.stack(distributed.gather_all(*own))
        return {
            "invariance": self.config.invariance * spread_of_views(z),
            "rate": -coding_rate(z, self.config.precision),
        }

    @property
    def encoder(self) -> nn.Sequential:
        """g∘f."""
        return self.online
