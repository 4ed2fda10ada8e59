"""What a method promises the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class MethodConfig:
    """What every method's settings share: the name under which a recipe asks for it."""

    name: ClassVar[str]


class Method(nn.Module, ABC):
    """A way to learn features, and perhaps clusters, from two views of each image.

    The trainer calls ``forward``, adds the terms up, and between ``backward`` and the optimiser's step calls
    ``before_step``, after it ``after_step``. Everything else about training is the trainer's.
    """

    granularities: tuple[int, ...] = ()
    """The k of each clustering the method wants from the E-step: BYOL (), ProPos (K,), PCL (250, 500, 1000)."""

    @abstractmethod
    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is the loss.

        ``clusterings`` holds one per granularity once clustering has begun, and is empty before.
        """

    @abstractmethod
    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features that are clustered, of images in [0, 1], at unit length."""

    @abstractmethod
    def represent(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        """The backbone's features before any head, of images in [0, 1], from the network that ``embed`` uses.

        These are what nearest neighbours and a linear probe read.
        """

    def before_step(self, progress: float) -> None:
        """What moves on the weights that made the loss; ``progress`` is the share of training done, in (0, 1]."""

    def after_step(self, progress: float) -> None:
        """What moves on the weights that the optimiser left: targets follow, queues turn."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Trainable parameters for the optimiser; a group may carry ``lr_scale``."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


def on_views(network: Callable[[Tensor], Tensor], x1: Tensor, x2: Tensor, *, joined: bool) -> tuple[Tensor, Tensor]:
    """A network's output for two views: one pass over both, or one each.

    The two differ in batch-norm statistics, which are of both views when joined and of each when apart.
    """
    if joined:
        y1, y2 = network(torch.cat((x1, x2))).chunk(2)
        return y1, y2
    return network(x1), network(x2)
