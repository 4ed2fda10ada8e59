"""What ImageNet-1k on several GPUs takes, on paper: tables for docs/scale.md.

    python benchmarks/scale.py [--gpus 8] [--rates 100 200 400 800 1600]

Sizes, memory and messages are counted from the code and the recipe, disk and decoding are worked out from what
benchmarks/imagenet_map.py measured. How many images a GPU trains on in a second is not known here: give the rate of
yours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from command import RESULTS
from shoal.config import RunConfig, load_recipe
from shoal.data import DATA_SETS, steps_of_epoch
from shoal.methods import Method, build
from shoal.models import batchnorm, sync_batch_norm
from shoal.training.dry_run import Extent, _activations
from step import PASSES

N = DATA_SETS["imagenet"].n_images
SIDES = (64, 160, 224)
AT_ONCE = 32
"""Images that go through one GPU's network at once, in the recipe."""
UPDATES = 20
"""Of the centres of k-means: as many as a million overlapping rows took at most (results/kmeans.json)."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{each:,.3g}" if isinstance(each, float) else str(each) for each in row) + " |")


def of_disk(figures: dict[str, Any]) -> None:
    """Decoding once, the map, and a start."""
    decoded, warm = figures["decoding"]["500 x 375"], figures["opening, warm"]["digest MB/s"]
    cold = figures["from the beginning, cold"]["MB/s"]
    rows = []
    for side in SIDES:
        size, rate = N * 3 * side**2, decoded[f"to {side} px"]
        rows.append((side, size / 1e9, rate, N / rate / 3600, size / cold / 1e6 / 60, size / warm / 1e6 / 60))
    head = ("px", "map, GB", "decoded, images/s and core", "core-hours", "read once, min", "checked at a start, min")
    table(head, rows)


def of_network(config: RunConfig, gpus: int) -> None:
    """Weights, messages and activations."""
    method = made(config)
    learnt = sum(p.numel() for p in method.parameters() if p.requires_grad)
    held = sum(t.nbytes for t in (*method.parameters(), *method.buffers())) + 2 * 4 * learnt
    gradient = 4 * learnt
    print(f"\n{learnt} weights learn: a gradient of {gradient / 1e6:.0f} MB a step")
    print(f"of which each of {gpus} GPUs sends {2 * (gpus - 1) / gpus * gradient / 1e6:.0f} MB round a ring")
    print(f"weights, target network, buffers, gradient, momentum: {held / 2**30:.2f} GB of 2**30 bytes, as below")
    rows = []
    for side in SIDES:
        extent = Extent(N, N, (side, side))
        alone, _ = _activations(config, made(config), extent, AT_ONCE)
        sums, among = synchronised(config, extent)
        rows.append((side, alone / 2**30, among / 2**30))
    print(f"batch-norm over processes: {sums} sums over the GPUs for each part's forward passes")
    table(("px", f"activations of {AT_ONCE} images, GB", "with batch-norm over processes, GB"), rows)


def known(config: RunConfig) -> int:
    """The number of clusters of a recipe, which is given."""
    assert config.n_clusters != "auto"
    return config.n_clusters


def made(config: RunConfig) -> Method:
    """The method of a recipe."""
    return build(config.method, config.backbone, known(config), torch.Generator())


def synchronised(config: RunConfig, extent: Extent) -> tuple[int, int]:
    """Sums over processes in a part's forward passes, and bytes of activations, as on one of several processes."""
    sums: list[int] = []

    def counted(values: Tensor) -> Tensor:
        sums.append(values.numel())
        return 2 * values

    method = made(config)
    sync_batch_norm(method)
    pair = SimpleNamespace(world_size=lambda: 2, sum_over_ranks=counted)
    with mock.patch.object(batchnorm, "distributed", pair):
        found, _ = _activations(config, method, extent, AT_ONCE)
    return len(sums) // 2, found  # two forward passes were made


def of_time(config: RunConfig, gpus: int, rates: Sequence[int]) -> None:
    """Hours of a run, and what the map must give, at rates that are assumed."""
    seen = steps_of_epoch(N, 0, config.optim.batch_size) * config.optim.batch_size * config.epochs
    e_steps = len(range(0, config.epochs, config.cluster_every)) + 1
    rows = []
    for rate in rates:
        steps, embedding = (n / (gpus * rate) / 3600 for n in (seen, e_steps * N / PASSES))
        needed = [gpus * rate * 3 * side**2 / 1e6 for side in SIDES]
        rows.append((rate, steps, embedding, (steps + embedding) / 24, *(f"{each:.0f}" for each in needed)))
    table(("images/s of a GPU", "M-steps, h", f"{e_steps} E-steps, h", "days", *(f"MB/s, {s} px" for s in SIDES)), rows)


def of_clustering(config: RunConfig, gpus: int) -> None:
    """k-means of an E-step: its arithmetic, and what two cores took for a smaller one."""
    dim = 256
    flops = 2 * N * dim * known(config)
    cases = json.loads((RESULTS / "kmeans.json").read_text())["cases"]
    larger = [case["seconds"] * N * dim / (case["n"] * case["d"]) for case in cases if case["n"] == 1_000_000]
    print(f"\nfeatures {N * dim * 4 / 1e9:.2f} GB; an update of all rows {flops / 1e12:.2f} TFLOP")
    print(f"{UPDATES} updates at 10 TFLOP/s on each of {gpus} GPUs: {UPDATES * flops / 1e13 / gpus:.2f} s")
    print("two cores, scaled by rows and columns:", ", ".join(f"{each:.0f} s" for each in larger))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--rates", type=int, nargs="+", default=[100, 200, 400, 800, 1600], help="images/s of a GPU")
    args = parser.parse_args()
    config = replace(load_recipe("propos-imagenet"), precision="bfloat16")
    of_disk(json.loads((RESULTS / "imagenet_map.json").read_text()))
    of_network(config, args.gpus)
    of_time(config, args.gpus, args.rates)
    of_clustering(config, args.gpus)


if __name__ == "__main__":
    main()
