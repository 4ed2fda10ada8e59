"""All scores of clusters against classes: seconds, memory beside the labels, and scikit-learn's seconds.

    python benchmarks/scores.py [--n 100000000] [--n-peer 10000000] [--clusters 10 1000]

Labels are int32, and a third of the clusters' are random. Each number of clusters has a process of its own, whose peak
memory is that of its labels until they are scored. scikit-learn is given the first ``--n-peer`` rows, for the same
scores but AMI, which takes it minutes with 1000 clusters. It has no matching, for which its contingency table and
SciPy's dense method stand in. Both sides take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from shoal.evaluation import clustering_scores

Labels = NDArray[np.int32]
Score = Callable[[Labels, Labels], dict[str, float]]


def pair(n: int, k: int) -> tuple[Labels, Labels]:
    """Classes and clusters, made in parts that leave no mark on the peak memory."""
    rng = np.random.default_rng(0)
    labels, pred = (np.empty(n, dtype=np.int32) for _ in range(2))
    for start in range(0, n, 2**20):
        part = slice(start, min(start + 2**20, n))
        size = part.stop - part.start
        labels[part] = rng.integers(k, size=size)
        pred[part] = np.where(rng.random(size) < 1 / 3, rng.integers(k, size=size), labels[part])
    return labels, pred


def peer_scores(labels: Labels, pred: Labels) -> dict[str, float]:
    """As someone takes them from scikit-learn today."""
    table = contingency_matrix(labels, pred)
    h, c, v = sklearn.metrics.homogeneity_completeness_v_measure(labels, pred)
    return {
        "acc": table[linear_sum_assignment(table, maximize=True)].sum() / len(labels),
        "nmi": sklearn.metrics.normalized_mutual_info_score(labels, pred),
        "ari": sklearn.metrics.adjusted_rand_score(labels, pred),
        "fmi": sklearn.metrics.fowlkes_mallows_score(labels, pred),
        "homogeneity": h,
        "completeness": c,
        "v_measure": v,
        "purity": table.max(axis=0).sum() / len(labels),
    }


def timed(score: Score, labels: Labels, pred: Labels) -> tuple[float, dict[str, float]]:
    """Seconds, and the scores."""
    start = time.perf_counter()
    scores = score(labels, pred)
    return time.perf_counter() - start, scores


def case(n: int, n_peer: int, k: int, repeats: int) -> None:
    """Print one line."""
    labels, pred = pair(n, k)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = timed(clustering_scores, labels, pred)
    above = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{k:5} clusters: {n:.0e} labels {seconds:6.2f} s, {above:4.0f} MB above the labels", end="; ", flush=True)
    some = labels[:n_peer], pred[:n_peer]
    runs = [(timed(clustering_scores, *some), timed(peer_scores, *some)) for _ in range(repeats)]
    mine, peer = (statistics.median(seconds for seconds, _ in side) for side in zip(*runs, strict=True))
    (_, scores), (_, expected) = runs[-1]
    difference = max(abs(scores[key] - value) for key, value in expected.items())
    print(
        f"{n_peer:.0e} labels {mine:5.2f} s, scikit-learn {peer:6.2f} s, ratio {peer / mine:5.1f}, "
        f"difference {difference:.0e}",
        flush=True,
    )


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10**8)
    parser.add_argument("--n-peer", type=int, default=10**7)
    parser.add_argument("--clusters", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for k in args.clusters:
        each = multiprocessing.get_context("spawn").Process(target=case, args=(args.n, args.n_peer, k, args.repeats))
        each.start()
        each.join()
        if each.exitcode:
            raise SystemExit(each.exitcode)


if __name__ == "__main__":
    main()
