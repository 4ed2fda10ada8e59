"""What ``suggest_k`` says of sets whose number of groups is known: right k, the interval, whether clear, CPU seconds.

    python benchmarks/suggest_k.py [--seeds 0 1 2] [--only moons one_] [--files features.npy=10]

The sets are those of ``known_groups.py``, tables of scikit-learn, and files of features. ``--only`` takes those whose
names begin so. A set of one group is right if k is 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import sklearn.datasets
import torch

from known_groups import KINDS
from shoal.clustering import suggest_k
from shoal.clustering.rows import Metric

Set = tuple[str, int, Metric, npt.NDArray[np.float32]]
"""Name, number of groups, metric, rows."""


def table(load: Callable[[], dict[str, npt.NDArray[np.float64]]]) -> npt.NDArray[np.float32]:
    """One of scikit-learn's tables, its columns brought to deviation 1."""
    rows: npt.NDArray[np.float64] = load()["data"]
    deviations = rows.std(0)
    return np.asarray((rows - rows.mean(0)) / np.where(deviations > 0, deviations, 1), dtype=np.float32)


def known_sets(seeds: list[int], files: list[str]) -> Iterator[tuple[str, Callable[[], Set]]]:
    """Names, and what makes the set."""

    def of_kind(kind: str, seed: int) -> Set:
        rows, k = KINDS[kind](np.random.default_rng([seed, sum(map(ord, kind))]))
        return f"{kind} {seed}", k, "euclidean", rows

    def of_table(name: str, k: int) -> Set:
        return name, k, "euclidean", table(getattr(sklearn.datasets, f"load_{name}"))

    def of_file(path: str, k: str) -> Set:
        return Path(path).stem, int(k), "cosine", np.load(path)

    for kind in KINDS:
        for seed in seeds:
            yield kind, partial(of_kind, kind, seed)
    for name, k in (("iris", 3), ("wine", 3), ("breast_cancer", 2), ("digits", 10)):
        yield name, partial(of_table, name, k)
    for file in files:
        path, _, known = file.rpartition("=")
        yield Path(path).stem, partial(of_file, path, known)


def main() -> None:
    """Run all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[""])
    parser.add_argument("--files", nargs="+", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'set':<20} {'shape':>12} known  best  interval  clear  CPU s", flush=True)
    right, inside, misled, widths, seconds = 0, 0, 0, [], 0.0
    for name, make in known_sets(args.seeds, args.files):
        if not name.startswith(tuple(args.only)):
            continue
        title, k, metric, rows = make()
        start = time.process_time()
        found = suggest_k(rows, metric=metric)
        took = time.process_time() - start
        low, high = found.interval
        right += found.k == k
        inside += low <= k <= high
        misled += found.clear and not low <= k <= high
        widths.append(high - low)
        seconds += took
        line = f"{title:<20} {f'{rows.shape[0]}×{rows.shape[1]}':>12} {k:>5} {found.k:>5}  {f'{low}–{high}':<8}"
        print(f"{line}  {'yes' if found.clear else 'no':<5} {took:6.1f}", flush=True)
    print(
        f"{len(widths)} sets: k right on {right}, in the interval on {inside} (median width {median(widths):g}), "
        f"clear but outside {misled}, {seconds:.0f} CPU s"
    )


if __name__ == "__main__":
    main()
