"""What a method promises the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shoal import distributed
from shoal.errors import UserError
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class MethodConfig:
    """What every method's settings share: the name under which a recipe asks for it."""

    name: ClassVar[str]

    @property
    def parts(self) -> int:
        """Equal parts that a pass over a batch is cut into."""
        return 1

    def check_fits(self, per_step: int, per_pass: int, n_images: int) -> None:
        """Raise a UserError when the method cannot train like this.

        Args:
            per_step: images of the global batch that makes a step.
            per_pass: images that go through one process's network at once.
            n_images: images that are clustered.
        """


class Method(nn.Module, ABC):
    """A way to learn features, and perhaps clusters, from two views of each image.

    The trainer calls ``forward``, adds the terms up, and between ``backward`` and the optimiser's step calls
    ``before_step``, after it ``after_step``. Everything else about training is the trainer's.
    """

    granularities: tuple[int, ...] = ()
    """The k of each clustering the losses want from the E-step: BYOL (), ProPos (K,), PCL (250, 500, 1000)."""

    @abstractmethod
    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is the loss.

        ``clusterings`` holds one per granularity once clustering has begun, and is empty before.
        """

    @property
    @abstractmethod
    def encoder(self) -> nn.Sequential:
        """The backbone and the head whose features are clustered, of the network that is used after training."""

    def represent(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """The backbone's features of images in [0, 1], before any head: what kNN and linear probes read."""
        features: Tensor = self.encoder[0](images)
        return features

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features that are clustered, of images in [0, 1], at unit length."""
        return F.normalize(self.encoder(images), dim=-1)

    def head_centers(self) -> Float[Tensor, "k d"] | None:
        """The centres of a method that clusters by a head of its own; None leaves them to k-means."""
        return None

    def before_step(self, progress: float) -> None:
        """What moves on the weights that made the loss; ``progress`` is the share of training done, in (0, 1]."""

    def after_step(self, progress: float) -> None:
        """What moves on the weights that the optimiser left: targets follow, queues turn."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Trainable parameters for the optimiser; a group may carry ``lr_scale``, or ``lr_decays`` to be False."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


def on_views(network: Callable[[Tensor], Tensor], x1: Tensor, x2: Tensor, *, joined: bool) -> tuple[Tensor, Tensor]:
    """A network's output for two views: one pass over both, or one each.

    The two differ in batch-norm statistics, which are of both views when joined and of each when apart.
    """
    if joined:
        y1, y2 = network(torch.cat((x1, x2))).chunk(2)
        return y1, y2
    return network(x1), network(x2)


def shuffled_pass(
    network: Callable[[Tensor], Tensor], images: Float[Tensor, "b 3 h w"], generator: torch.Generator
) -> Float[Tensor, "global_b d"]:
    """A network's output for all images of the global batch, which meet others than their neighbours; without gradient.

    The batch is shuffled over processes and split statistics, and put back in order afterwards: a key's
    batch-norm statistics then come from other images than its query's (shuffling BN, arXiv 1911.05722, section 3.3).
    """
    world = distributed.gather(images)
    order = torch.randperm(len(world), generator=generator, device=world.device)
    outputs = distributed.gather(network(world[order[distributed.share(len(world))]]))
    return outputs[order.argsort()]


def check_queue(length: int, keys_per_step: int) -> None:
    """Raise a UserError when a queue is shorter than what one step puts into it."""
    if length < keys_per_step:
        raise UserError(
            f"a queue of {length} is shorter than the {keys_per_step} keys of one step: give at least --method.queue "
            f"{keys_per_step}, or a smaller --optim.batch-size."
        )


def check_splits(splits: int, per_pass: int) -> None:
    """Raise a UserError when a batch cannot be cut into equal parts of two images or more."""
    if per_pass % splits or per_pass < 2 * splits:
        raise UserError(
            f"{per_pass} images at once cannot be cut into {splits} equal parts of two or more for batch-norm: give "
            "another --method.bn-splits, or another --optim.batch-size."
        )
