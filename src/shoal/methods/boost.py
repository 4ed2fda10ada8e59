"""DCBoost as a last stage of training (arXiv 2511.21193).

    L = L_ins + L_pos + L_neg

Once a network knows most clusters, it is trained on with its own pseudo-labels: images whose neighbours agree with
theirs draw the images of their cluster together (L_pos) and push other clusters away (L_neg). L_ins keeps the views of
an image together, as the method did before.

Of the paper only a note that prints its equations was at hand: the reduction of L_neg is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.errors import UserError
from shoal.losses import Reduction, cluster_concentration, consistent_labels, prototype_repulsion
from shoal.methods.base import MethodConfig


@dataclass(frozen=True)
class BoostConfig(MethodConfig):
    """Settings of the last stage, for methods that have one."""

    boost_from: Annotated[float, Ge(0), Lt(1)] | None = None
    """Share of the epochs after which DCBoost's losses take over, such as 0.8; None to do without."""
    boost_neighbours: Annotated[int, Ge(0)] = 50
    """Nearest neighbours that DCBoost's filter looks at, at most; 0 for no filter."""
    boost_pos_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of DCBoost's L_pos, which draws the images of a cluster together."""
    boost_neg_weight: Annotated[float, Ge(0)] = 1.0
    """Weight of DCBoost's L_neg, which pushes clusters apart."""
    boost_reduction: Reduction = "mean"
    """Of the pairs of clusters L_neg takes the mean, the mean over clusters of the sum over the others, or the sum."""

    @property
    def uses_clusters(self) -> bool:
        """Those of the last stage do."""
        return self.boost_from is not None

    def boosts(self, progress: float) -> bool:
        """Whether the last stage has begun once this share of the epochs is done."""
        return self.boost_from is not None and progress >= self.boost_from

    def check_epochs(self, epochs: int, cluster_from: int) -> None:
        """Raise a UserError when a last stage is asked for that would never begin."""
        last = epochs - 1
        if self.boost_from is not None and (last < cluster_from or not self.boosts(last / epochs)):
            raise UserError(
                f"--method.boost-from {self.boost_from} and --cluster-from {cluster_from} leave the last stage no "
                f"epoch of {epochs}: lower them, or give more --epochs."
            )


def boost_terms(
    config: BoostConfig,
    online: tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]],
    target: tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]],
    labels: Int64[Tensor, "b"],
    n_clusters: int,
) -> dict[str, Tensor]:
    """L_pos and L_neg, weights included, of the global batch: means over both directions.

    Args:
        config: the weights, the reduction and the filter.
        online: z₁ and z₂, the online features of both views.
        target: t₂ and t₁, the target's of the views that they are compared with.
        labels: pseudo-label of each row, −1 for none.
        n_clusters: K.
    """
    sides = []
    for z, t in zip(online, target, strict=True):
        kept = consistent_labels(t, labels, config.boost_neighbours) if config.boost_neighbours else labels
        pos = cluster_concentration(z, t, kept, n_clusters)
        neg = prototype_repulsion(z, t, kept, n_clusters, config.boost_reduction)
        sides.append(torch.stack((config.boost_pos_weight * pos, config.boost_neg_weight * neg)))
    pos, neg = torch.stack(sides).mean(0)
    return {"pos": pos, "neg": neg}
