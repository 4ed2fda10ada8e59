"""Networks and their parts: backbones, heads, the slow copy."""

from shoal.models.backbone import Backbone, BackboneConfig, build_backbone
from shoal.models.heads import mlp, start_near_zero
from shoal.models.target import Target, momentum_at

__all__ = ["Backbone", "BackboneConfig", "Target", "build_backbone", "mlp", "momentum_at", "start_near_zero"]
