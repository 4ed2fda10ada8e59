"""The interface between a method and the trainer."""

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
from shoal.progress import counted
from shoal.types import Batch, Clustering


@dataclass(frozen=True)
class MethodConfig:
    """Base of every method's settings: the name a recipe uses and the checks before training."""

    name: ClassVar[str]
    has_cluster_head: ClassVar[bool] = False
    """Whether the network has an output for each cluster, so that their number must be known before training."""
    many_views: ClassVar[bool] = False
    """Whether the method takes more than two views of an image."""

    @property
    def parts(self) -> int:
        """Number of equal parts with statistics of their own in each pass over a batch."""
        return 1

    @property
    def uses_clusters(self) -> bool:
        """Whether the losses use clusters at some time."""
        return False

    @property
    def clusters_from(self) -> float:
        """Share of the epochs before which the losses use no clusters, whatever ``RunConfig.cluster_from`` says."""
        return 0.0

    def check_fits(self, per_step: int, per_pass: int, n_images: int) -> None:
        """Raise a UserError when the method cannot train with these numbers.

        Args:
            per_step: images of the global batch.
            per_pass: images in one forward pass of one process.
            n_images: images that are clustered.
        """

    def check_epochs(self, epochs: int, cluster_from: int) -> None:
        """Raise a UserError when a stage of the method would never begin."""


class Method(nn.Module, ABC):
    """A way to learn features, and perhaps clusters, from two views of each image.

    The trainer calls ``forward``, sums the terms and calls ``backward``, then ``before_step``, the optimiser's step and
    ``after_step``. ``shoal.testing.check_method`` checks what is promised here.

    A constructor takes, in this order,

    - ``config``, settings of ``config_class``;
    - ``backbone``, the network that ``--backbone`` describes, whose features have ``backbone.n_features`` columns;
    - ``n_clusters``, how many clusters the user asked for;
    - ``generator``, the source of the random numbers of training, on the device of the method; weights are drawn from
      torch's default generator.
    """

    config_class: ClassVar[type[MethodConfig]]
    """The settings, a frozen dataclass; its ``name`` is the method's, its fields are the flags."""
    granularities: tuple[int, ...] = ()
    """The k of each clustering that the losses use: BYOL (), ProPos (K,), PCL (250, 500, 1000). K is 0 until it is
    found, where training looks for it."""

    @abstractmethod
    def forward(self, batch: Batch, clusterings: Sequence[Clustering] = ()) -> dict[str, Tensor]:
        """Weighted loss terms by name; their sum is the loss.

        ``clusterings`` holds one per granularity once clustering has begun, and is empty before.
        """

    @property
    @abstractmethod
    def encoder(self) -> nn.Sequential:
        """Backbone and head of the network that is used after training; its features are clustered."""

    def represent(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """The backbone's features of images in [0, 1], before any head, as kNN and linear probes use them."""
        features: Tensor = self.encoder[0](images)
        return features

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features that are clustered, of unit length, of images in [0, 1]."""
        return F.normalize(self.encoder(images), dim=-1)

    def head_centers(self) -> Float[Tensor, "k d"] | None:
        """Centres of a method that clusters with its own head; None for k-means."""
        return None

    def before_step(self, progress: float) -> None:
        """Updates from the weights that gave the loss; ``progress`` is the fraction of training done, in (0, 1]."""

    def after_step(self, progress: float) -> None:
        """Updates from the optimiser's new weights: targets follow, queues are flushed."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Trainable parameters for the optimiser; a group may set ``lr_scale``, or ``lr_decays`` to False."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


def on_views(network: Callable[[Tensor], Tensor], x1: Tensor, x2: Tensor, *, joined: bool) -> tuple[Tensor, Tensor]:
    """A network's output for two views: one pass over both, or one each.

    They differ in batch-norm statistics: of both views when joined, of each view when apart.
    """
    if joined:
        y1, y2 = network(torch.cat((x1, x2))).chunk(2)
        return y1, y2
    return network(x1), network(x2)


def shuffled_pass(
    network: Callable[[Tensor], Tensor], images: Float[Tensor, "b 3 h w"], generator: torch.Generator
) -> Float[Tensor, "global_b d"]:
    """A network's output for all images of the global batch, with shuffled batch-norm; without gradient.

    The batch is shuffled over processes and statistics' parts, and put back in order afterwards, so a key's statistics
    come from other images than its query's (shuffling BN, arXiv 1911.05722, section 3.3).
    """
    world = distributed.gather(images)
    order = torch.randperm(len(world), generator=generator, device=world.device)
    outputs = distributed.gather(network(world[order[distributed.part(len(world))]]))
    return outputs[order.argsort()]


def check_queue(length: int, keys_per_step: int) -> None:
    """Raise a UserError when a queue is shorter than the keys of one step."""
    if length < keys_per_step:
        raise UserError(
            f"a queue of {length} is shorter than the {keys_per_step} keys of one step: set --method.queue to at least "
            f"{keys_per_step}, or lower --optim.batch-size."
        )


def check_apart(views: str, per_pass: int) -> None:
    """Raise a UserError when a pass over one view has a single image, too few for batch-norm statistics."""
    if views == "apart" and per_pass < 2:
        raise UserError(
            "each pass has a single image, too few for batch-norm statistics: raise --optim.batch-size, lower "
            "--optim.accumulate or the number of processes, or give --method.views joined."
        )


def check_splits(splits: int, per_pass: int) -> None:
    """Raise a UserError when a batch cannot be cut into equal parts of two images or more."""
    if per_pass % splits or per_pass < 2 * splits:
        raise UserError(
            f"{counted(per_pass, 'image')} at once cannot be cut into {counted(splits, 'equal part')} of two or more "
            "for batch-norm: change --method.bn-splits, --optim.batch-size, --optim.accumulate or the number of "
            "processes."
        )
