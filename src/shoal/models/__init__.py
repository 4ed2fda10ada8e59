"""Networks and their parts: backbones, heads, batch-norm, the momentum network and its queue."""

from shoal.models.backbone import Backbone, BackboneConfig, build_backbone, compiler_error, evaluating
from shoal.models.batchnorm import average_statistics, split_batch_norm, sync_batch_norm
from shoal.models.heads import mlp, plain_mlp, start_near_zero
from shoal.models.momentum import Queue, Target, momentum_at
from shoal.models.recompute import blocks_of

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Queue",
    "Target",
    "average_statistics",
    "blocks_of",
    "build_backbone",
    "compiler_error",
    "evaluating",
    "mlp",
    "momentum_at",
    "plain_mlp",
    "split_batch_norm",
    "start_near_zero",
    "sync_batch_norm",
]
