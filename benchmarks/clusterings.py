"""The clusterings of one matrix of features, and how they agree with its classes.

    python benchmarks/clusterings.py FEATURES.npy LABELS.npy [--seeds 10,11,12] [--methods kmeans,temi] [--threads 1]

The metric is the cosine and k the number of classes; only scores read the classes themselves. It prints a line of
figures for each method and seed; for TEMI also the lowest loss of a head, and for the density, which is
told no k, the clusters, the share of rows in none and the purity of the others, whose scores these are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from shoal.clustering import TEMI, UMAPHDBSCAN, ClusteringMethod, build_clusterer
from shoal.clustering.rows import Metric
from shoal.evaluation import clustering_scores

METHODS: tuple[ClusteringMethod, ...] = get_args(ClusteringMethod)


def fits(
    features: Tensor,
    labels: Tensor,
    methods: Sequence[ClusteringMethod],
    seeds: Sequence[int],
    metric: Metric = "cosine",
) -> list[dict[str, Any]]:
    """Fit each method with each seed, print a line of figures for each, and return them."""
    k, rows = len(torch.bincount(labels).nonzero()), []
    for method in methods:
        for seed in seeds:
            asked = None if method == "density" else k
            clusterer = build_clusterer(method, asked, metric=metric, seed=seed, n=len(features))
            start, start_cpu = time.perf_counter(), time.process_time()
            found = torch.as_tensor(clusterer.fit(features).labels_)
            row: dict[str, Any] = {"method": method, "seed": seed, "seconds": time.perf_counter() - start}
            row["cpu_seconds"] = time.process_time() - start_cpu
            row |= clustering_scores(labels, found)
            loss = f", loss {float(clusterer.losses_.min()):.3f}" if isinstance(clusterer, TEMI) else ""
            if isinstance(clusterer, UMAPHDBSCAN):
                row |= {"clusters": clusterer.n_clusters_, "nowhere": float((found < 0).double().mean())}
                row["layers"] = clusterer.choices_
                loss = f", {row['clusters']} clusters of {row['layers']}, {row['nowhere']:.3f} nowhere"
                loss += f", purity {row['purity']:.4f}"
            took = f"{row['seconds']:.0f} s, {row['cpu_seconds']:.0f} CPU s"
            figures = f"ACC {row['acc']:.4f}, NMI {row['nmi']:.4f}, {took}{loss}"
            print(f"{method:12} seed {seed}: {figures}", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Fit each method with each seed to features from a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features")
    parser.add_argument("labels")
    parser.add_argument("--seeds", default="10,11,12")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    features, labels = (torch.from_numpy(np.load(path)) for path in (args.features, args.labels))
    fits(features, labels, args.methods.split(","), [int(seed) for seed in args.seeds.split(",")])


if __name__ == "__main__":
    main()
