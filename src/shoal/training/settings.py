"""What a run's settings amount to with its images, device and processes; and what does not go together."""

from __future__ import annotations

import logging

import torch

from shoal import distributed
from shoal.config import RunConfig
from shoal.data.augmentation import named
from shoal.errors import UserError
from shoal.methods import Method
from shoal.models import Backbone, compiler_error, evaluating
from shoal.models.backbone import short
from shoal.progress import counted

_LOG = logging.getLogger("shoal")

LONG_STEPS = 20_000
"""Steps from which ``compile: auto`` compiles on a GPU: compiling takes a minute or two and saves up to a third of each
step."""


MOST_COMPARED = 200_000
"""Images whose nearest neighbours by pixels are found: a quarter of an hour on a core."""


def global_batch(config: RunConfig, n_images: int) -> int:
    """Images per step: as configured, at most all of them, and a multiple of the parts it is computed in."""
    batch = min(config.optim.batch_size, n_images)
    return max(batch - batch % (config.optim.accumulate * config.method.parts * distributed.world_size()), 1)


def uses_clusters(config: RunConfig, epoch: int) -> bool:
    """Whether the losses use clusters in an epoch, counted from 0."""
    return epoch >= config.cluster_from and epoch / config.epochs >= config.method.clusters_from


def use_of_clusters(config: RunConfig, steps_per_epoch: int) -> tuple[str, bool]:
    """When the losses use clusters, in words, and whether all epochs would bring it; no words where none are used."""
    if not config.method.uses_clusters:
        return "", True
    limit = config.max_steps or 0
    first = next((epoch for epoch in range(config.epochs) if uses_clusters(config, epoch)), None)
    if first is None:
        return f"never used: --cluster-from {config.cluster_from} is past the last of {config.epochs} epochs", False
    if 0 < limit <= first * steps_per_epoch:
        return f"not used yet: --max-steps {limit} ends before epoch {first + 1}, with which they begin", True
    return f"the losses use them from epoch {first + 1} of {config.epochs} on", True


def compiles(config: RunConfig, n_steps: int, device: torch.device) -> bool:
    """Whether a run compiles its backbones: ``auto`` does so for long runs on a GPU, where the compiler works."""
    if config.compile != "auto" or config.recompute:
        return config.compile == "on"
    # Synchronised batch-norm talks to other processes in the middle of the network.
    synced = config.sync_batch_norm and distributed.world_size() > 1
    if device.type != "cuda" or n_steps < LONG_STEPS or synced:
        return False
    error = compiler_error(device)
    if error:
        _LOG.warning(f"training without torch.compile, which does not work here: {error}")
    return not error


def recompute(method: Method) -> None:
    """Let the backbones of a method compute their blocks again for the backward pass.

    Raises:
        UserError: the blocks of a backbone are not known.
    """
    for part in method.modules():
        if isinstance(part, Backbone):
            part.recompute_training()


def check_fits(config: RunConfig, n: int, n_images: int) -> None:
    """Raise a UserError when ``n_images``, ``n`` of which are clustered, cannot be clustered or trained on as asked."""
    optim = config.optim
    if config.backbone.freeze and not config.backbone.weights:
        raise UserError(
            f"--backbone.freeze {config.backbone.freeze} would keep random weights: give --backbone.weights as well."
        )
    if n_images < 2:
        raise UserError("there is 1 image: training compares images, so give at least two.")
    if config.n_clusters == "auto" and config.method.has_cluster_head:
        raise UserError(
            f"{config.method.name} has a head with an output for each cluster, so their number must be known before "
            "training: give --n-clusters, or train a method without such a head."
        )
    if config.smooth_features and config.method.has_cluster_head:
        raise UserError(f"{config.method.name} clusters by its own head, not by k-means: leave out --smooth-features.")
    if config.n_clusters != "auto" and config.n_clusters > n:
        raise UserError(
            f"{config.n_clusters} clusters need at least as many images, and there are {n}: ask for fewer clusters."
        )
    if config.recompute and config.compile == "on":
        raise UserError("--recompute and --compile on exclude each other: the compiler decides what is computed again.")
    batch = global_batch(config, n_images)
    parts = {"--optim.accumulate": optim.accumulate, "--method.bn-splits": config.method.parts}
    too_many = [flag for flag, n_parts in parts.items() if n_parts > 1]
    if batch < 2 * optim.accumulate:
        n_parts, processes = optim.accumulate * config.method.parts, distributed.world_size()
        among = f" in each of {processes} processes" if processes > 1 else ""
        remedy = " or ".join([*too_many, *(["the number of processes"] if processes > 1 else [])])
        raise UserError(
            f"{min(optim.batch_size, n_images)} images a step are too few for {n_parts} parts of two or more{among}: "
            f"lower {remedy}."
        )
    check_lengths(config)
    _check_views(config, n_images)
    config.method.check_fits(batch, batch // optim.accumulate // distributed.world_size(), n)
    for spec in config.augment.own:
        named(spec)


def check_lengths(config: RunConfig) -> None:
    """Raise a UserError when the number of epochs leaves no time for the rate to rise, or for a stage of the method."""
    config.method.check_epochs(config.epochs, config.cluster_from)
    warmup = config.optim.warmup_epochs
    if config.optim.schedule == "epoch" and warmup >= config.epochs:
        raise UserError(
            f"--optim.warmup-epochs {warmup} leaves nothing of {counted(config.epochs, 'epoch')}, since "
            "--optim.schedule epoch counts the warm-up among them: the rate would be 0 throughout. Give fewer, or "
            "--optim.schedule iteration."
        )


def _check_views(config: RunConfig, n_images: int) -> None:
    if config.augment.views > 2 and not config.method.many_views:
        raise UserError(
            f"{config.method.name} takes two views of an image, not {config.augment.views}: leave --augment.views at 2."
        )
    if config.augment.neighbours >= n_images:
        raise UserError(
            f"--augment.neighbours {config.augment.neighbours} of each image need more than {n_images} images: give "
            "fewer, or 0 for none."
        )
    if config.augment.neighbours and n_images > MOST_COMPARED:
        raise UserError(
            f"--augment.neighbours compares all pairs of images, which is feasible for {MOST_COMPARED:,} and not for "
            f"{n_images:,}: leave it at 0."
        )


def check_takes(method: Method, config: RunConfig, size: tuple[int, int], device: torch.device) -> None:
    """Raise a UserError when the backbone cannot take images of this height and width, or their views."""
    height, width = size
    side = config.augment.side
    try:
        with evaluating(method):
            method.embed(torch.zeros(1, 3, height, width, device=device))
            if side is not None:
                method.embed(torch.zeros(1, 3, side, side, device=device))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        backbone = next(part for part in method.modules() if isinstance(part, Backbone))
        fitting = f", such as {backbone.made_for[0]}" if backbone.made_for and len(set(backbone.made_for)) == 1 else ""
        raise UserError(
            f"the backbone {config.backbone.name} cannot take images of {height} × {width} px"
            f"{f' or views of {side} px' if side else ''} ({short(error)}): give another --data.size{fitting}"
            f"{' or --augment.side' if side else ''}."
        ) from error
