"""MoCo: momentum contrast (arXiv 1911.05722), optionally with the MLP head of MoCo v2 (arXiv 2003.04297).

A query must find its key, made from the other view by a target network, among a queue of older keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from shoal import distributed
from shoal.losses import info_nce
from shoal.methods.base import Method, MethodConfig, check_queue, check_splits, shuffled_pass
from shoal.models import Backbone, Queue, Target, plain_mlp, split_batch_norm
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class MoCoConfig(MethodConfig):
    """Settings of MoCo; the defaults are those of its published clustering results on CIFAR-10."""

    name: ClassVar[str] = "moco"

    temperature: Annotated[float, Gt(0)] = 0.1
    """T of the InfoNCE loss: 0.07 in the paper, 0.1 for CIFAR."""
    momentum: Annotated[float, Ge(0), Le(1)] = 0.999
    """EMA momentum of the network that makes the keys."""
    queue: Annotated[int, Gt(0)] = 4096
    """Keys kept as negatives: 65 536 in the paper, 4 096 for CIFAR."""
    head: Literal["linear", "mlp"] = "mlp"
    """The projector: one Linear layer (v1), or Linear–ReLU–Linear (v2)."""
    symmetric: bool = True
    """Use each view as query and as key: the loss is the sum of both directions."""
    dim: Annotated[int, Gt(0)] = 128
    """Width of the embedding that is clustered."""
    bn_splits: Annotated[int, Ge(1)] = 1
    """Parts of the batch with their own batch-norm statistics: several on one device, 1 on several devices."""

    @property
    def parts(self) -> int:
        """Those with their own batch-norm statistics."""
        return self.bn_splits

    def check_fits(self, per_step: int, per_pass: int, n_images: int) -> None:
        """Raise a UserError when the queue is shorter than the keys of one step, or the batch cannot be split."""
        check_queue(self.queue, per_step * (1 + self.symmetric))
        check_splits(self.bn_splits, per_pass)


class MoCo(Method):
    """Online network q = norm(g(f(x))), the target network that makes the keys, and the queue."""

    config_class = MoCoConfig

    def __init__(self, config: MoCoConfig, backbone: Backbone, n_clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.generator = generator
        n = backbone.n_features
        head = plain_mlp(n, config.dim) if config.head == "mlp" else nn.Linear(n, config.dim)
        self.online = split_batch_norm(nn.Sequential(backbone, head), config.bn_splits)
        self.target = Target(self.online, config.momentum)
        self.queue = Queue(config.queue, config.dim)

    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """InfoNCE of view 1's queries with view 2's keys (eq. 1); if symmetric, plus the other way round."""
        queries, keys = [batch.view1], [batch.view2]
        if self.config.symmetric:
            queries, keys = [batch.view1, batch.view2], [batch.view2, batch.view1]
        ks = [F.normalize(shuffled_pass(self.target, x, self.generator).float(), dim=-1) for x in keys]
        mine = distributed.part(len(batch.index))
        losses = [
            info_nce(F.normalize(self.online(x).float(), dim=-1), k[mine], self.queue.keys, self.config.temperature)
            for x, k in zip(queries, ks, strict=True)
        ]
        for k in reversed(ks):  # view 1's keys before view 2's, as published
            self.queue.enqueue(k, batch.index)
        return {"info_nce": torch.stack(losses).sum()}

    @property
    def encoder(self) -> nn.Sequential:
        """g'∘f', the network that makes the keys."""
        return self.target.network

    def after_step(self, progress: float) -> None:
        """The target network follows the new weights (eq. 2), and the keys of the step enter the queue."""
        self.target.follow(self.online, progress)
        self.queue.flush()
