"""SimCLR: a simple framework for contrastive learning of visual representations (arXiv 2002.05709).

Each view must find the other view of its image among all views of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from shoal import distributed
from shoal.losses import nt_xent
from shoal.methods.base import Method, MethodConfig, on_views
from shoal.models import Backbone, plain_mlp
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR; the defaults are the paper's for CIFAR-10."""

    name: ClassVar[str] = "simclr"

    temperature: Annotated[float, Gt(0)] = 0.5
    """T of the NT-Xent loss; a smaller one puts more weight on the hardest negatives."""
    dim: Annotated[int, Gt(0)] = 128
    """Width of the projection that is clustered."""


class SimCLR(Method):
    """Backbone f and projector g."""

    config_class = SimCLRConfig

    def __init__(self, config: SimCLRConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.online = nn.Sequential(backbone, plain_mlp(backbone.n_features, config.dim))

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """NT-Xent over the global batch (eq. 1) of z = norm(g(f(x))), both views in one pass."""
        z1, z2 = on_views(self.online, batch.view1, batch.view2, joined=True)
        z1, z2 = distributed.gather_all(F.normalize(z1.float(), dim=-1), F.normalize(z2.float(), dim=-1))
        return {"nt_xent": nt_xent(z1, z2, self.config.temperature)}

    @property
    def encoder(self) -> nn.Sequential:
        """g∘f."""
        return self.online
