"""k-means of shoal and of scikit-learn on the same features, turn by turn, in one process.

    python benchmarks/kmeans.py [--repeats 3] [--threads 2]

Prints for each case the median seconds of both, their ratio, and the ratio of the inertias (below 1: shoal's is lower).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import sklearn.cluster
import torch
from threadpoolctl import threadpool_limits

from shoal.clustering import KMeans

CASES = ((10, 10), (100, 1))
"""Clusters and restarts."""


def features(n: int, d: int, k: int, spread: float) -> npt.NDArray[np.float32]:
    """Gaussian clusters about random centres; a large spread makes them overlap."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((k, d))
    rows = centers[rng.integers(k, size=n)] + spread * rng.standard_normal((n, d))
    return rows.astype(np.float32)


def timed(fit: Callable[[], float]) -> tuple[float, float]:
    """Seconds, and what the fit gave."""
    start = time.perf_counter()
    inertia = fit()
    return time.perf_counter() - start, inertia


def compare(rows: npt.NDArray[np.float32], k: int, n_init: int, repeats: int) -> str:
    """One line: both medians, their ratio and that of the median inertias."""
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for seed in range(repeats):
        mine = KMeans(k, n_init=n_init, random_state=seed)
        peer = sklearn.cluster.KMeans(k, n_init=n_init, random_state=seed)
        ours.append(timed(lambda mine=mine: mine.fit(rows).inertia_))  # type: ignore[misc]
        theirs.append(timed(lambda peer=peer: peer.fit(rows).inertia_))  # type: ignore[misc]
    (seconds, inertia), (peer_seconds, peer_inertia) = (
        [statistics.median(column) for column in zip(*runs, strict=True)] for runs in (ours, theirs)
    )
    return (
        f"shoal {seconds:6.2f} s  scikit-learn {peer_seconds:6.2f} s  "
        f"ratio {peer_seconds / seconds:5.2f}  inertia {inertia / peer_inertia:.4f}"
    )


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n", type=int, default=60_000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        for name, spread in (("clustered", 0.5), ("overlapping", 4.0)):
            for k, n_init in CASES:
                rows = features(args.n, 256, k, spread)
                line = compare(rows, k, n_init, args.repeats)
                print(f"{name:<12} k={k:<4} restarts={n_init:<3} {line}", flush=True)


if __name__ == "__main__":
    main()
