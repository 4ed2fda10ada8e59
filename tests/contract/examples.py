"""A small instance of every method, and batches for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shoal.methods import (
    BYOLConfig,
    CCConfig,
    EMPConfig,
    Method,
    MethodConfig,
    MoCoConfig,
    PCLConfig,
    ProPosConfig,
    SimCLRConfig,
    SimSiamConfig,
    build,
)
from shoal.models import BackboneConfig
from shoal.types import Batch, Clustering

SMALL: Mapping[str, MethodConfig] = {
    "byol": BYOLConfig(hidden=16, dim=8, momentum=0.9),
    "byol, joined": BYOLConfig(hidden=16, dim=8, momentum=0.9, views="joined"),
    "byol, boost": BYOLConfig(hidden=16, dim=8, momentum=0.9, boost_from=0.0),
    "cc": CCConfig(dim=8),
    "emp": EMPConfig(invariance=2.0, hidden=16, dim=8),
    "moco": MoCoConfig(dim=8, queue=50, momentum=0.9),
    "moco, one way": MoCoConfig(dim=8, queue=50, momentum=0.9, symmetric=False, head="linear"),
    "pcl": PCLConfig(dim=8, queue=50, momentum=0.9, granularities=(6, 9)),
    "pcl, both ways": PCLConfig(dim=8, queue=50, momentum=0.9, granularities=(6, 9), symmetric=True),
    "propos": ProPosConfig(hidden=16, dim=8, momentum=0.9, noise=0.1),
    "propos, queue": ProPosConfig(hidden=16, dim=8, momentum=0.9, views="joined", queue=50),
    "propos, boost": ProPosConfig(hidden=16, dim=8, momentum=0.9, noise=0.1, boost_from=0.0),
    "propos, queue and boost": ProPosConfig(hidden=16, dim=8, momentum=0.9, queue=50, boost_from=0.0),
    "simclr": SimCLRConfig(dim=8),
    "simsiam": SimSiamConfig(dim=8, bottleneck=4),
}
"""Queues hold 50 keys, which is not a multiple of a batch of 24: the ring wraps."""

K, N, B = 4, 60, 24


def method(name: str, seed: int = 0) -> Method:
    """A method with random weights on a small backbone, in training mode."""
    torch.manual_seed(seed)
    backbone = BackboneConfig(name="small", width=4)
    return build(SMALL[name], backbone, K, torch.Generator().manual_seed(seed))


def batch(seed: int = 0) -> Batch:
    """Two views of 24 of 60 images."""
    generator = torch.Generator().manual_seed(seed)
    view1, view2 = (torch.rand(B, 3, 8, 8, generator=generator) for _ in range(2))
    return Batch(view1, view2, torch.randperm(N, generator=generator)[:B])


def clusterings(of: Method, labels: Tensor | None = None) -> tuple[Clustering, ...]:
    """One per granularity: given labels, or each image in some cluster."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for k in of.granularities:
        centers = torch.nn.functional.normalize(torch.randn(k, 8, generator=generator), dim=1)
        mine = torch.randint(k, (N,), generator=generator) if labels is None else labels
        found.append(Clustering(mine, centers, torch.rand(N, generator=generator)))
    return tuple(found)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss, as the trainer adds it up."""
    return torch.stack(list(terms.values())).sum()
