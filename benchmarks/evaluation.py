"""Seconds that nearest neighbours and linear probes take, and logistic regression on the same features.

    python benchmarks/evaluation.py [--train 50000] [--test 10000] [--dim 512] [--threads 2]

Features are what a ReLU leaves of overlapping Gaussian classes. Prints top-1 of each as well: the probes should reach
what logistic regression, which is convex and run to its end, finds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from shoal.evaluation import knn_predict
from shoal.evaluation.linear import LARS_PROBE, SGD_PROBE, linear_predict


def features(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Rows (n, d) and their classes, ten that take turns."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 10
    centers = torch.randn(10, d, generator=generator)
    return (0.12 * centers[labels] + torch.randn(n, d, generator=generator)).relu(), labels


def main() -> None:
    """Time each on the same rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x, y = features(args.train + args.test, args.dim)
    train, test = slice(0, args.train), slice(args.train, None)
    seed = torch.Generator().manual_seed
    regression = LogisticRegression(max_iter=1000)
    cases: dict[str, Callable[[], Tensor]] = {
        "knn": lambda: knn_predict(x[test], x[train], y[train], 20, 0.07)[:, 0],
        "linear, SGD": lambda: linear_predict(x[test], x[train], y[train], SGD_PROBE, seed(0))[:, 0],
        "linear, LARS": lambda: linear_predict(x[test], x[train], y[train], LARS_PROBE, seed(0))[:, 0],
        "logistic regression": lambda: torch.from_numpy(regression.fit(x[train], y[train]).predict(x[test])),
    }
    for name, predict in cases.items():
        start = time.perf_counter()
        top1 = (predict() == y[test]).float().mean()
        print(f"{name:<20} {time.perf_counter() - start:6.1f} s   top-1 {top1:.4f}")


if __name__ == "__main__":
    main()
