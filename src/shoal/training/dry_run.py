"""What a run would cost, from its config alone: no image of a named data set is read, and nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shoal.config import RunConfig
from shoal.data import DATA_SETS, load_images, steps_of_epoch
from shoal.device import autocast, compute_device, process_memory, resolve_precision
from shoal.errors import UserError
from shoal.methods import Method, build
from shoal.models import Target, evaluating
from shoal.training.optim import full_lr
from shoal.training.settings import check_fits, check_takes, global_batch, recompute, use_of_clusters
from shoal.types import Batch, Clustering

N_CLUSTERS = 10
"""Number of clusters that is reckoned with where training looks for it."""


@dataclass(frozen=True)
class Extent:
    """Number of images, how many of them are clustered, and their height and width in pixels."""

    n_images: int
    n_clustered: int
    size: tuple[int, int]


def forecast(config: RunConfig) -> dict[str, str]:
    """The lines of a dry run by name: images, steps, parameters, memory.

    Raises:
        UserError: the images cannot be found, their size is unknown, or the settings do not fit together.
    """
    extent = _extent(config)
    check_fits(config, extent.n_clustered, extent.n_images)
    optim, batch = config.optim, global_batch(config, extent.n_images)
    steps = steps_of_epoch(extent.n_clustered, extent.n_images - extent.n_clustered, batch)
    k = N_CLUSTERS if config.n_clusters == "auto" else config.n_clusters
    method = build(config.method, config.backbone, k, torch.Generator())
    if config.recompute:
        recompute(method)
    height, width = extent.size
    check_takes(method, config, extent.size, torch.device("cpu"))
    total, limit = steps * config.epochs, config.max_steps
    cut = f", of which {_count(limit)} are taken" if limit and limit < total else ""
    parts = f" in {optim.accumulate} parts" if optim.accumulate > 1 else ""
    among = f", {_count(extent.n_clustered)} of them clustered" if extent.n_clustered < extent.n_images else ""
    return {
        "method": f"{config.method.name} with {config.backbone.name}, {config.n_clusters} clusters",
        "images": f"{_count(extent.n_images)} of {height} × {width} px{among}",
        "epoch": f"{_count(steps)} steps of {_count(batch)} images{parts}: {_count(steps * batch)} images",
        "run": f"{_count(config.epochs)} epochs: {_count(total)} steps{cut}",
        "rate": f"{full_lr(batch, optim):g} after {optim.warmup_epochs} epochs of warm-up ({optim.optimizer})",
        **({"clusters": used} if (used := use_of_clusters(config, steps)[0]) else {}),
        **_parameters(method),
        **_memory(config, method, extent, batch // optim.accumulate),
    }


def _extent(config: RunConfig) -> Extent:
    data = config.data
    known = DATA_SETS.get(data.path)
    if known is None:
        images = load_images(data)
        height, width = images.pixels.shape[2:]
        return Extent(len(images), int(images.clustered.sum()), (height, width))
    side = data.size or known.size
    if side is None:
        raise UserError(f"the images of {data.path} differ in size: give --data.size.")
    return Extent(known.n_images, known.n_clustered, (side, side))


def _parameters(method: Method) -> dict[str, str]:
    learned = sum(p.numel() for p in method.parameters() if p.requires_grad)
    slow = {p for part in method.modules() if isinstance(part, Target) for p in part.parameters()}
    frozen = sum(p.numel() for p in method.parameters() if not p.requires_grad and p not in slow)
    others = sum(p.numel() for p in slow)
    kept = sum(b.numel() for b in method.buffers())
    beside = f", {_count(frozen)} frozen" if frozen else ""
    beside += f", {_count(others)} in the target network" if others else ""
    return {"parameters": f"{_count(learned)} to learn{beside}, {_count(kept)} values in buffers"}


def _memory(config: RunConfig, method: Method, extent: Extent, per_pass: int) -> dict[str, str]:
    """An estimate for one process, on a CPU with what the program itself takes, on a GPU without caches."""
    states = {"sgd": 1, "lars": 1, "adam": 2}[config.optim.optimizer]
    learned = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    here = sum(t.nbytes for t in (*method.parameters(), *method.buffers()))
    program = max(0, process_memory() - here)
    activations, workspace = _activations(config, method, extent, per_pass)
    parts = {
        "weights, gradients and optimiser": here + (1 + states) * learned,
        "activations": activations,
        "features of all images": extent.n_clustered * _width(method, extent) * 4,
    }
    if compute_device().type == "cpu":
        parts = {"the program itself": program, **parts, "workspace": workspace}
    height, width = extent.size
    pixels = extent.n_images * 3 * height * width
    split = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    return {
        "memory": f"about {_bytes(sum(parts.values()))} for {per_pass} images at once: {split}",
        "pixels": f"{_bytes(pixels)}, on the GPU if that leaves it half empty, else mapped from the cache on disk",
    }


WORKSPACE = 4
"""Maps of the largest size that a pass takes beside those that are kept: measured by benchmarks/train_memory.py."""


def _activations(config: RunConfig, method: Method, extent: Extent, per_pass: int) -> tuple[int, int]:
    """Bytes kept for the backward pass of a batch, extrapolated linearly from two small ones, and of workspace."""
    few = 2 * config.method.parts  # batch-norm needs two images in each part
    clusterings = _clusterings(method, extent)
    one, two = (_saved(config, method, extent, n, clusterings) for n in (few, 2 * few))
    total = max(0, sum(one) + (sum(two) - sum(one)) * (per_pass - few) // few)
    # Of the maps: weights that are kept in another type do not grow with the batch.
    largest = max((after for before, after in zip(one, two, strict=False) if after == 2 * before), default=0)
    return total, WORKSPACE * largest * per_pass // (2 * few)


def _clusterings(method: Method, extent: Extent) -> tuple[Clustering, ...]:
    """Random clusterings of the granularities that the losses use."""
    n, generator = extent.n_images, torch.Generator().manual_seed(0)
    d = _width(method, extent)
    found = []
    for k in method.granularities:
        labels = torch.randint(k, (n,), generator=generator)
        centers = torch.nn.functional.normalize(torch.randn(k, d, generator=generator), dim=1)
        found.append(Clustering(labels, centers, torch.rand(n, generator=generator)))
    return tuple(found)


def _width(method: Method, extent: Extent) -> int:
    """Columns of the features."""
    with evaluating(method):
        return method.embed(torch.zeros(1, 3, *extent.size)).shape[1]


def _saved(config: RunConfig, method: Method, extent: Extent, n: int, clusterings: tuple[Clustering, ...]) -> list[int]:
    """Bytes of each tensor that is kept after one forward pass for the backward one, without weights."""
    kept: dict[int, int] = {}
    weights = {p.data_ptr() for p in method.parameters()}

    def keep(tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side = config.augment.side
    size = extent.size if side is None else (side, side)
    view1, view2, *more = (torch.rand(n, 3, *size) for _ in range(config.augment.views))
    batch = Batch(view1, view2, torch.arange(n) % extent.n_images, more=tuple(more))
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    # Run on the CPU, but in the precision of the device that would train.
    with hooks, autocast(torch.device("cpu"), resolve_precision(compute_device(), config.precision)):
        terms = method.train()(batch, clusterings)
    del terms
    return [*kept.values()]


def _count(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def _bytes(n: int) -> str:
    return f"{n / 2**30:.1f} GB" if n >= 2**30 / 10 else f"{n / 2**20:.0f} MB"
