"""BYOL: bootstrap your own latent (arXiv 2006.07733).

From one view of an image, the online network predicts the output of the target network for the other view. There are no
negatives and no clusters: k-means finds those in the features afterwards. A last stage that uses clusters may follow
(``methods/boost.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from shoal import distributed
from shoal.losses import positive_alignment
from shoal.methods.base import Method, check_apart, on_views
from shoal.methods.boost import BoostConfig, boost_terms
from shoal.models import Backbone, Target, mlp, start_near_zero
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class BYOLConfig(BoostConfig):
    """Settings of BYOL; the defaults are those of its published clustering results on CIFAR-10."""

    name: ClassVar[str] = "byol"

    momentum: Annotated[float, Ge(0), Le(1)] = 0.996
    """EMA momentum of the target network."""
    momentum_rises: bool = False
    """Let the momentum rise to 1 along a cosine instead of keeping it constant."""
    views: Literal["apart", "joined"] = "apart"
    """apart: one forward pass per view, target updated before the optimiser; joined: one pass, target updated after."""
    dim: Annotated[int, Gt(0)] = 256
    """Width of the embedding that is clustered."""
    hidden: Annotated[int, Gt(0)] = 4096
    """Width of the hidden layer of projector and predictor."""
    predictor_lr_scale: Annotated[float, Gt(0)] = 10.0
    """How many times faster the predictor learns than the rest."""

    @property
    def clusters_from(self) -> float:
        """The last stage alone uses clusters."""
        return self.boost_from or 0.0

    def check_fits(self, per_step: int, per_pass: int, n_images: int) -> None:
        """Raise a UserError when a pass has a single image."""
        check_apart(self.views, per_pass)


class BYOL(Method):
    """Online backbone f and projector g, their targets f' and g', and the predictor h."""

    config_class = BYOLConfig

    def __init__(self, config: BYOLConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        if config.boost_from is not None:
            self.granularities = (n_clusters,)
        self.online = nn.Sequential(backbone, mlp(backbone.n_features, config.hidden, config.dim))
        self.target = Target(self.online, config.momentum, rising=config.momentum_rises)
        self.predictor = mlp(config.dim, config.hidden, config.dim)
        start_near_zero(self.predictor)

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """L = 2 − 2·cos(h(g(f(x))), g'(f'(x'))), symmetric in the views (eq. 2); with clusters, DCBoost's beside it."""
        joined = self.config.views == "joined"
        z1, z2 = on_views(self.online, batch.view1, batch.view2, joined=joined)
        k2, k1 = on_views(self.target, batch.view2, batch.view1, joined=joined)
        p1, p2 = on_views(self.predictor, z1, z2, joined=joined)
        alignment = (positive_alignment(p1, k2) + positive_alignment(p2, k1)) / 2
        if not clusterings:
            return {"byol": alignment}
        z1, z2, k1, k2 = distributed.gather_all(z1.float(), z2.float(), k1.float(), k2.float())
        found = clusterings[0]
        boost = boost_terms(self.config, (z1, z2), (k2, k1), found.labels[batch.index], len(found.centers))
        return {"instance": alignment, **boost}

    @property
    def encoder(self) -> nn.Sequential:
        """g'∘f', the target network."""
        return self.target.network

    def before_step(self, progress: float) -> None:
        """Views apart: the target follows the weights that gave the loss."""
        if self.config.views == "apart":
            self.target.follow(self.online, progress)

    def after_step(self, progress: float) -> None:
        """Views joined: the target follows the new weights, so that it has moved before the next loss."""
        if self.config.views == "joined":
            self.target.follow(self.online, progress)

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor learns ``predictor_lr_scale`` times faster."""
        fast = {"params": list(self.predictor.parameters()), "lr_scale": self.config.predictor_lr_scale}
        return [{"params": list(self.online.parameters())}, fast]
