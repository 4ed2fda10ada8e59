"""What part of an epoch the E-step takes: embedding and k-means of all images, beside the steps.

    python benchmarks/e_step.py [--images 60000] [--batch 512]

Embedding and steps are timed on as many images as a step has and multiplied; k-means runs on features of all images,
drawn around ten centres that moved a little since the last E-step. The sides take turns and medians are compared.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from command import keep
from interleaved import seconds_of
from shoal.clustering.kmeans import kmeans
from shoal.device import resolve_precision
from shoal.methods.embedding import embed_all
from shoal.training.loop import STARTS, STARTS_BETWEEN
from step import config_of, noise_run, step_of


def features(n: int, k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Unit rows (n, 256) around k centres that overlap, and about where these were an E-step ago."""
    generator = torch.Generator(device).manual_seed(0)
    centers = torch.randn(k, 256, generator=generator, device=device)
    noise = torch.randn(n, 256, generator=generator, device=device)
    rows = F.normalize(centers[torch.arange(n, device=device) % k] + 2 * noise, dim=1)
    moved = centers + 0.2 * torch.randn(k, 256, generator=generator, device=device)
    return rows, F.normalize(moved, dim=1)


def main() -> None:
    """Print seconds of each part of an epoch, and the E-step's share."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", default="", help="keep the figures under this name in benchmarks/results")
    args = parser.parse_args()
    config = config_of(args.batch)
    with tempfile.TemporaryDirectory() as folder:
        run = noise_run(config, 32, Path(folder) / "run", 4 * args.batch)
        rows, before = features(args.images, run.n_clusters, run.device)
        some = run.images.pixels[: args.batch]
        draw = torch.Generator(run.device).manual_seed(0)
        seconds = seconds_of(
            {
                "steps": step_of(run),
                "embedding": lambda: embed_all(run.method, some, run.device, config.precision),
                "k-means, first": lambda: kmeans(rows, run.n_clusters, generator=draw, n_init=STARTS),
                "k-means": lambda: kmeans(
                    rows, run.n_clusters, generator=draw, n_init=STARTS_BETWEEN, warm_start=before
                ),
            },
            args.repeats,
            run.device,
        )
    batches = args.images / args.batch
    epoch = {name: each * (1 if name.startswith("k-means") else batches) for name, each in seconds.items()}
    e_step = epoch["embedding"] + epoch["k-means"]
    share = e_step / (e_step + epoch["steps"])
    precision = resolve_precision(run.device, config.precision)
    print(f"an epoch of propos-cifar10 on {args.images} images, {precision}, {run.device}")
    for name, each in epoch.items():
        print(f"{name:<16}{each:9.1f} s")
    print(f"with an E-step before each epoch it takes {100 * share:.1f} % of the time")
    if args.save:
        keep(args.save, {"images": args.images, "batch": args.batch, "seconds": epoch, "share": share})


if __name__ == "__main__":
    main()
