"""Networks and their parts: backbones, heads, batch-norms, the slow copy, the queue of keys."""

from shoal.models.backbone import Backbone, BackboneConfig, build_backbone, compiler_error
from shoal.models.batchnorm import average_statistics, split_batch_norm, sync_batch_norm
from shoal.models.heads import mlp, plain_mlp, start_near_zero
from shoal.models.queue import Queue
from shoal.models.target import Target, momentum_at

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Queue",
    "Target",
    "average_statistics",
    "build_backbone",
    "compiler_error",
    "mlp",
    "momentum_at",
    "plain_mlp",
    "split_batch_norm",
    "start_near_zero",
    "sync_batch_norm",
]
