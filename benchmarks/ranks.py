"""Processes under torchrun against one process with as many threads: images per second of a recipe's steps.

Runs of both sides take turns; each gives the median of its epochs without the first, which warms up. Call it as
``python benchmarks/ranks.py propos-digits --epochs 8`` or with ``--noise 512`` for that many random images of 32 px.
What else is given goes to ``shoal train``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from command import keep


def rate(command: list[str], threads: int, folder: Path) -> float:
    """Images per second in the steps of a run."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*command, "--quiet", "--out", str(folder)], env=environment, check=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return float(statistics.median([row["images_per_second"] for row in rows if "loss" in row][1:]))


def main() -> None:
    """Run both sides in turn and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--noise", type=int, help="train on this many random images of 32 px")
    parser.add_argument("--save", default="", help="keep the figures under this name in benchmarks/results")
    args, flags = parser.parse_known_args()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.ranks)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.noise:
            path = folder / "noise.npy"
            np.save(path, np.random.default_rng(0).integers(0, 256, (args.noise, 32, 32, 3), dtype=np.uint8))
            flags += ["--data.path", str(path)]
        train = ["-m", "shoal", "train", args.recipe, *flags]
        sides = {
            f"{args.ranks} processes, a thread each": ([sys.executable, *torchrun, *train], 1),
            f"1 process, {args.ranks} threads": ([sys.executable, *train], args.ranks),
        }
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(args.repeats):
            for side, (command, threads) in sides.items():
                rates[side].append(rate(command, threads, folder / f"{number}-{threads}"))
    medians = {side: statistics.median(each) for side, each in rates.items()}
    for side, median in medians.items():
        print(f"{side:<28}{median:9.1f} images/s   {' '.join(f'{each:.1f}' for each in rates[side])}")
    many, one = medians.values()
    print(f"{args.ranks} processes are {many / one:.2f} x as fast as one")
    if args.save:
        keep(args.save, {"recipe": args.recipe, "flags": flags, "images_per_second": rates})


if __name__ == "__main__":
    main()
