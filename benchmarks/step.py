"""One step of ProPos beside lightly's BYOL step on the same network, and beside the bare network.

Shoal's step is the whole of it: two views made from uint8 images, four forward passes, backward, optimiser, target, the
scattering loss on clusters. lightly gets views that are there already. The floor is 3/8 of the rate at which the bare
network goes forward and backward in the arithmetic of this hardware: an image costs two views forward and backward
and two forward alone, 8/3 of a view's forward and backward. The sides take turns and medians are compared.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from command import keep
from interleaved import seconds_of
from shoal.config import RunConfig, load_recipe
from shoal.device import Precision, autocast, compute_device, resolve_precision
from shoal.models.backbone import Backbone, build_backbone
from shoal.progress import Progress
from shoal.results import train as workflow
from shoal.training import Run
from shoal.training.loop import pixels_to_come, train_step
from shoal.types import Clustering, Images

Step = Callable[[], object]

PASSES = 2 * 3 + 2
"""Forward passes that a step's arithmetic is worth, for each image: two views forward and backward, two forward."""


def config_of(batch: int, backbone: str = "resnet18", side: int = 32, precision: Precision = "auto") -> RunConfig:
    """The CIFAR-10 recipe of ProPos with another batch, from the start with clusters."""
    config = load_recipe("propos-cifar10")
    stem: Literal["native", "cifar"] = "cifar" if side <= 64 and backbone != "small" else "native"
    return replace(
        config,
        cluster_from=0,
        precision=precision,
        optim=replace(config.optim, batch_size=batch),
        backbone=replace(config.backbone, name=backbone, stem=stem),
    )


def shoal_step(config: RunConfig, side: int, folder: Path) -> Step:
    """The trainer's own step, on images of noise."""
    return step_of(noise_run(config, side, folder, 16 * config.optim.batch_size))


def noise_run(config: RunConfig, side: int, folder: Path, n: int) -> Run:
    """A run on images of noise, in the midst of an epoch and with clusters."""
    run = workflow.start(config, folder, Progress(), noise(n, side))
    run.state.order = torch.randperm(n, device=run.device, generator=run.generator)
    labels = torch.arange(n, device=run.device) % run.n_clusters
    centers = F.normalize(torch.randn(run.n_clusters, 256, device=run.device, generator=run.generator), dim=-1)
    run.state.clusterings = (Clustering(labels, centers, torch.zeros(n, device=run.device)),)
    return run


def step_of(run: Run) -> Callable[[], dict[str, Tensor]]:
    """The trainer's own step, with its loss terms; the epoch's order comes round again."""
    pixels = (part for _ in count() for part in pixels_to_come(run))

    def step() -> dict[str, Tensor]:
        terms = train_step(run, pixels)
        run.state.step = (run.state.step + 1) % run.steps_per_epoch
        return terms

    return step


def noise(n: int, side: int) -> Images:
    """Images of random pixels, none labelled."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.full((n,), -1), torch.ones(n, dtype=torch.bool), (), [str(i) for i in range(n)])


def lightly_step(config: RunConfig, side: int, device: torch.device) -> Step:
    """The step of lightly's BYOL example on this backbone with heads as wide, in float32 as it is written."""
    from lightly.loss import NegativeCosineSimilarity  # type: ignore[import-not-found,unused-ignore]
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead  # type: ignore[import-not-found,unused-ignore]
    from lightly.models.utils import update_momentum  # type: ignore[import-not-found,unused-ignore]

    hidden, dim = config.method.hidden, config.method.dim  # type: ignore[attr-defined]
    backbone = build_backbone(config.backbone)
    online = nn.Sequential(backbone, BYOLProjectionHead(backbone.n_features, hidden, dim)).to(device)
    predictor = BYOLPredictionHead(dim, hidden, dim).to(device)
    target_backbone = build_backbone(config.backbone)
    target = nn.Sequential(target_backbone, BYOLProjectionHead(backbone.n_features, hidden, dim)).to(device)
    target.load_state_dict(online.state_dict())
    target.requires_grad_(False)
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.06, momentum=0.9)
    x0, x1 = (torch.rand(config.optim.batch_size, 3, side, side, device=device) for _ in range(2))

    def step() -> None:
        update_momentum(online, target, m=0.996)
        p0, p1 = predictor(online(x0)), predictor(online(x1))
        with torch.no_grad():
            z0, z1 = target(x0).detach(), target(x1).detach()
        loss = 0.5 * (criterion(p0, z1) + criterion(p1, z0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def bare_step(config: RunConfig, side: int, device: torch.device) -> Step:
    """Forward and backward of the backbone alone, in the arithmetic that shoal chooses on this hardware."""
    backbone: Backbone = build_backbone(config.backbone).to(device).to(memory_format=torch.channels_last)
    views = torch.rand(config.optim.batch_size, 3, side, side, device=device)
    views = views.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        backbone.zero_grad()
        with autocast(device, config.precision):
            features = backbone(views)
        features.float().sum().backward()

    return step


def main() -> None:
    """Time all sides in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=32, help="height and width of the images")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save", default="", help="keep the figures under this name in benchmarks/results")
    args = parser.parse_args()
    device = compute_device()
    config = config_of(args.batch, args.backbone, args.side)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"shoal": shoal_step(config, args.side, Path(folder) / "run")}
        if find_spec("lightly"):
            sides["lightly"] = lightly_step(config, args.side, device)
        sides["bare network"] = bare_step(config, args.side, device)
        seconds = seconds_of(sides, args.repeats, device)
    rates = {name: args.batch / each for name, each in seconds.items()}
    floor = rates["bare network"] * 3 / PASSES
    precision = resolve_precision(device, config.precision)
    print(f"{args.backbone}, {args.batch} images of {args.side} px, {precision}, {device}")
    print(f"shoal         {rates['shoal']:9.1f} images/s")
    if "lightly" in rates:
        ratio = rates["shoal"] / rates["lightly"]
        print(f"lightly       {rates['lightly']:9.1f} images/s   shoal is {ratio:.2f} x as fast")
    print(f"bare network  {rates['bare network']:9.1f} views/s    shoal has {rates['shoal'] / floor:.3f} of 3/8 of it")
    if args.save:
        keep(args.save, {"precision": resolve_precision(device, config.precision), "rates": rates})


if __name__ == "__main__":
    main()
