"""The clusterings of one matrix of features, how they agree with its classes, and what their confidence is worth.

    python benchmarks/clusterings.py FEATURES.npy LABELS.npy [--seeds 10,11,12] [--methods kmeans,temi] [--threads 1]

The metric is the cosine and k the number of classes; only scores read the classes themselves. It prints a line of
figures for each method and seed; for TEMI also the lowest loss of a head, and for the density, which
takes no k, the clusters, the share of rows in none and the purity of the others, whose scores these are. ECE is the
expected calibration error of the confidence in a result (15 bins); in brackets that of the probabilities before they
are calibrated, and the CPU seconds which that takes.
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
from shoal.clustering.calibration import Calibrated, fit_calibration
from shoal.clustering.occupied import renumbered, restricted
from shoal.clustering.rows import Metric
from shoal.clustering.saved import Unsupervised
from shoal.evaluation import clustering_scores
from shoal.evaluation.calibration import calibration
from shoal.evaluation.metrics import matched_class

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
            row |= calibration_errors(clusterer, features, found, labels, metric, seed)
            more = f", loss {float(clusterer.losses_.min()):.3f}" if isinstance(clusterer, TEMI) else ""
            if isinstance(clusterer, UMAPHDBSCAN):
                row |= {"clusters": clusterer.n_clusters_, "nowhere": float((found < 0).double().mean())}
                row["layers"] = clusterer.choices_
                more = f", {row['clusters']} clusters of {row['layers']}, {row['nowhere']:.3f} nowhere"
                more += f", purity {row['purity']:.4f}"
            took = f"{row['seconds']:.0f} s, {row['cpu_seconds']:.0f} CPU s"
            figures = f"ACC {row['acc']:.4f}, NMI {row['nmi']:.4f}, {took}{more}, ECE {row['ece']:.3f}"
            figures += f" ({row['ece_before']:.3f}, {row['calibration_seconds']:.1f} s)"
            print(f"{method:12} seed {seed}: {figures}", flush=True)
            rows.append(row)
    return rows


def calibration_errors(
    clusterer: Unsupervised, features: Tensor, found: Tensor, labels: Tensor, metric: Metric, seed: int
) -> dict[str, float]:
    """ECE of the confidence as results have it, that of the clusterer's own probabilities, and the time of calibrating.

    Results leave out empty clusters first. Rows in no cluster have no part in it.
    """
    inside = found >= 0
    features, found, labels = features[inside], found[inside], labels[inside]
    own, occupied = renumbered(found)
    fitted = restricted(clusterer, occupied)
    right = torch.from_numpy(matched_class(labels, own, len(occupied)))[own] == labels
    start = time.process_time()
    fit = fit_calibration(fitted, features, own, metric, seed)
    seconds = time.process_time() - start
    after = fitted if fit is None else Calibrated(fitted, fit)
    ece, before = (
        calibration(torch.as_tensor(each.predict_proba(features)).gather(1, own[:, None])[:, 0], right).error
        for each in (after, fitted)
    )
    return {"ece": ece, "ece_before": before, "calibration_seconds": seconds}


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
