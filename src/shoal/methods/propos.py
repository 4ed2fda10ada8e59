"""ProPos: learning representation for clustering via prototype scattering and positive sampling (arXiv 2111.11821).

    L = L_psa + λ·L_psl

Positive sampling alignment (PSA) is BYOL whose prediction starts from a sampled neighbour of the embedding; prototype
scattering (PSL) pulls the two views' prototypes of a cluster together and pushes different clusters apart. In a last
stage DCBoost's losses may take the place of PSL (``methods/boost.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from shoal import distributed
from shoal.losses import positive_alignment, prototype_scattering
from shoal.methods.base import Method, check_apart, check_queue, on_views
from shoal.methods.boost import BoostConfig, boost_terms
from shoal.models import Backbone, Queue, Target, mlp, start_near_zero
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class ProPosConfig(BoostConfig):
    """Settings of ProPos; the defaults are the paper's for CIFAR-10."""

    name: ClassVar[str] = "propos"

    temperature: Annotated[float, Gt(0)] = 0.5
    """T of the prototype scattering loss."""
    psl_weight: Annotated[float, Ge(0)] = 0.1
    """λ, the weight of the prototype scattering loss."""
    noise: Annotated[float, Ge(0)] = 0.001
    """σ, how far around its embedding a neighbour is sampled."""
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
    queue: Annotated[int, Ge(0)] = 0
    """Target features of earlier images that join the prototypes: 10 240 on ImageNet-1k, whose batches hold too few
    images of a cluster; 0 for none."""

    @property
    def uses_clusters(self) -> bool:
        """PSL does."""
        return True

    def check_fits(self, per_step: int, per_pass: int, n_images: int) -> None:
        """Raise a UserError when the queue is shorter than the keys of one step, or a pass has a single image."""
        check_apart(self.views, per_pass)
        if self.queue:
            check_queue(self.queue, 2 * per_step)


class ProPos(Method):
    """Online backbone f and projector g, their targets f' and g', and the predictor h."""

    config_class = ProPosConfig

    def __init__(self, config: ProPosConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.granularities = (n_clusters,)
        self.generator = generator
        self.online = nn.Sequential(backbone, mlp(backbone.n_features, config.hidden, config.dim))
        self.target = Target(self.online, config.momentum, rising=config.momentum_rises)
        self.predictor = mlp(config.dim, config.hidden, config.dim)
        start_near_zero(self.predictor)
        self.queue = Queue(config.queue, config.dim) if config.queue else None

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """PSA from the start; sampled neighbours and PSL once there are clusters; DCBoost's terms in the last stage."""
        joined = self.config.views == "joined"
        z1, z2 = on_views(self.online, batch.view1, batch.view2, joined=joined)
        k2, k1 = on_views(self.target, batch.view2, batch.view1, joined=joined)
        v1, v2 = (self._sample_neighbour(z) for z in (z1, z2)) if clusterings else (z1, z2)
        p1, p2 = on_views(self.predictor, v1, v2, joined=joined)

        boosting = bool(clusterings) and self.config.boosts(batch.progress)
        alignment = (positive_alignment(p1, k2) + positive_alignment(p2, k1)) / 2
        terms = {"instance" if boosting else "psa": alignment}
        if clusterings or self.queue:
            z1, z2, k1, k2 = distributed.gather_all(z1.float(), z2.float(), k1.float(), k2.float())
            for clustering in clusterings:
                terms |= self._of_clusters(z1, z2, k1, k2, batch, clustering)
            if self.queue:
                for k in (k1, k2):
                    self.queue.enqueue(F.normalize(k, dim=-1), batch.index)
        return terms

    def _sample_neighbour(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """V = z + σ·ε with ε ~ N(0, I): a neighbour of z in feature space is taken to be a positive."""
        n = len(z) * distributed.world_size()
        noise = torch.randn(n, z.shape[1], generator=self.generator, device=z.device)
        return z + self.config.noise * noise[distributed.part(n)]

    def _of_clusters(
        self, z1: Tensor, z2: Tensor, k1: Tensor, k2: Tensor, batch: Batch, clustering: Clustering
    ) -> dict[str, Tensor]:
        """λ·L_psl, or DCBoost's terms, over the global batch and symmetric in the views; the queue's rows join both."""
        index = batch.index
        if self.queue:
            z1, z2, k1, k2 = (torch.cat((rows, self.queue.keys)) for rows in (z1, z2, k1, k2))
            index = torch.cat((index, self.queue.index))
        labels = clustering.labels[index].where(index >= 0, -1)
        k = len(clustering.centers)
        if self.config.boosts(batch.progress):
            return boost_terms(self.config, (z1, z2), (k2, k1), labels, k)
        forth = prototype_scattering(z1, k2, labels, k, self.config.temperature)
        back = prototype_scattering(z2, k1, labels, k, self.config.temperature)
        return {"psl": self.config.psl_weight * (forth + back) / 2}

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
        if self.queue:
            self.queue.flush()

    def param_groups(self) -> list[dict[str, Any]]:
        """The predictor learns ``predictor_lr_scale`` times faster."""
        fast = {"params": list(self.predictor.parameters()), "lr_scale": self.config.predictor_lr_scale}
        return [{"params": list(self.online.parameters())}, fast]
