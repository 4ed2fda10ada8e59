"""Mini-batch k-means of shoal and scikit-learn on the same features, turn by turn, in one process.

    python benchmarks/minibatch.py [--repeats 5] [--threads 1] [--save]

Both sides have the same settings: batches of 1024, one start by k-means++, an end when the smoothed inertia no longer
falls. For each case it prints the median seconds and steps of each side, how many times faster shoal is, and the ratio
of the mean inertias (below 1: shoal's is lower).
"""

from __future__ import annotations

import argparse
import statistics
import time

import sklearn.cluster
import torch
from threadpoolctl import threadpool_limits

from kmeans import SPREADS, Matrix, Run, features
from shoal.clustering import MiniBatchKMeans

N, D, CLUSTERS = 60_000, 256, (10, 100)
SIDES = {"shoal": MiniBatchKMeans, "scikit-learn": sklearn.cluster.MiniBatchKMeans}


def run(side: str, rows: Matrix, k: int, seed: int) -> Run:
    """A fit; its steps stand for iterations."""
    start = time.perf_counter()
    model = SIDES[side](k, n_init=1, random_state=seed).fit(rows)
    return Run(time.perf_counter() - start, float(model.inertia_), model.n_steps_)


def compare(rows: Matrix, k: int, repeats: int) -> dict[str, float]:
    """Medians and ratios."""
    for side in SIDES:  # loads what a first fit loads
        run(side, rows[:5000], k, 0)
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for seed in range(repeats):
        for side, each in runs.items():
            each.append(run(side, rows, k, seed))
    found = {}
    for side, each in runs.items():
        found[f"seconds of {side}"] = statistics.median(one.seconds for one in each)
        found[f"steps of {side}"] = statistics.median(one.n_iter for one in each)
    found["times faster"] = found["seconds of scikit-learn"] / found["seconds of shoal"]
    mean = {side: statistics.mean(one.inertia for one in each) for side, each in runs.items()}
    return found | {"inertia over scikit-learn": mean["shoal"] / mean["scikit-learn"]}


def main() -> None:
    """Run all cases."""
    from command import keep

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write results/minibatch.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    with threadpool_limits(args.threads):
        for name, spread in SPREADS.items():
            for k in CLUSTERS:
                found = compare(features(N, D, k, spread), k, args.repeats)
                print(f"{name}, {N} x {D}, k = {k}")
                for key, value in found.items():
                    print(f"    {key:<28} {value:8.3f}", flush=True)
                results.append({"data": name, "n": N, "d": D, "k": k, **found})
    if args.save:
        keep("minibatch", {"threads": args.threads, "cases": results})


if __name__ == "__main__":
    main()
