"""Whether images, settings, backbone and processes go together."""

from __future__ import annotations

import torch

from shoal import distributed
from shoal.config import RunConfig
from shoal.errors import UserError
from shoal.methods import Method
from shoal.methods.embedding import evaluating


def global_batch(config: RunConfig, n_images: int) -> int:
    """Images per step: the config's, or all of them when there are fewer; a multiple of the parts it is computed in."""
    batch = min(config.optim.batch_size, n_images)
    return max(batch - batch % (config.optim.accumulate * config.method.parts * distributed.world_size()), 1)


def check_fits(config: RunConfig, n: int, n_images: int) -> None:
    """Raise a UserError when ``n_images``, ``n`` of which are clustered, cannot be clustered or trained on as asked."""
    optim = config.optim
    if config.n_clusters > n:
        raise UserError(
            f"{config.n_clusters} clusters need at least as many images, and there are {n}: lower --n-clusters."
        )
    batch = global_batch(config, n_images)
    if batch < 2 * optim.accumulate:
        raise UserError(
            f"{min(optim.batch_size, n_images)} images a step are too few for {optim.accumulate} parts of two or more: "
            "lower --optim.accumulate."
        )
    config.method.check_fits(batch, batch // optim.accumulate // distributed.world_size(), n)


def check_takes(method: Method, config: RunConfig, size: tuple[int, int], device: torch.device) -> None:
    """Raise a UserError when the backbone cannot take images of this height and width."""
    height, width = size
    try:
        with evaluating(method):
            method.embed(torch.zeros(1, 3, height, width, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"the backbone {config.backbone.name} cannot take images of {height} × {width} px "
            f"({' '.join(str(error).split())[:120]}): give another --data.size."
        ) from error
