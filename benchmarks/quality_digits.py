"""Quality of a digits recipe: the whole command, several seeds, against k-means on pixels.

    python benchmarks/quality_digits.py                       # seeds 0 1 2 of propos-digits
    python benchmarks/quality_digits.py --recipe byol-digits --seeds 3 4

Each run is the command in a process of its own, imports and report included; its peak memory is what the operating
system accounts for it. Results go to ``benchmarks/results/`` as JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from command import keep, train
from shoal.evaluation import clustering_scores


def kmeans_on_pixels(seed: int) -> dict[str, float]:
    """What the pixels themselves give."""
    digits = load_digits()
    return clustering_scores(digits.target, KMeans(10, n_init=10, random_state=seed).fit_predict(digits.data))


def main() -> None:
    """Run, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="propos-digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()

    rows = []
    print("seed    ACC    NMI    ARI  seconds  peak GB")
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            row = train(args.recipe, seed, Path(scratch) / "run").row(seed)
        rows.append(row)
        print("{seed:>4}  {acc:.3f}  {nmi:.3f}  {ari:.3f}  {seconds:7.1f}  {peak_gb:7.2f}".format(**row), flush=True)
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name != "seed"}
    print(" med  {acc:.3f}  {nmi:.3f}  {ari:.3f}  {seconds:7.1f}  {peak_gb:7.2f}".format(**median))
    pixels = statistics.median(kmeans_on_pixels(seed)["acc"] for seed in args.seeds)
    print(f"k-means on pixels: ACC {pixels:.3f}")

    keep(
        f"quality_{args.recipe}",
        {"recipe": args.recipe, "runs": rows, "median": median, "kmeans_on_pixels_acc": pixels},
    )


if __name__ == "__main__":
    main()
