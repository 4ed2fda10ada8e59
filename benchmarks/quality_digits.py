"""Quality of the digits recipes: the whole command, several seeds, against k-means on pixels.

    python benchmarks/quality_digits.py                       # seeds 0 1 2 of propos-digits
    python benchmarks/quality_digits.py --recipe byol-digits --seeds 3 4
    python benchmarks/quality_digits.py --all                 # the digits recipe of every method: about half an hour
    python benchmarks/quality_digits.py --seeds 10 11 12 --method.boost-from 0.8      # flags of 'shoal train' are tried

Each run is the command in a process of its own, imports and report included; its peak memory is what the operating
system accounts for it. Nothing is taken over from earlier results: what is asked for runs. Results go to
``benchmarks/results/`` as JSON, those of ``--all`` into one file that grows recipe by recipe. With flags they are
printed alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from command import SCORES, keep, train
from shoal.config import recipe_names
from shoal.evaluation import clustering_scores


def measure(recipe: str, seeds: Sequence[int], flags: Sequence[str] = ()) -> dict[str, Any]:
    """A run per seed, printed as it ends, and what they come to."""
    rows = []
    print(f"{' '.join((recipe, *flags))}\nseed    ACC    NMI    ARI  seconds  peak GB")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            row = train(recipe, seed, Path(scratch) / "run", *flags).row(seed)
        rows.append(row)
        print("{seed:>4}  {acc:.3f}  {nmi:.3f}  {ari:.3f}  {seconds:7.1f}  {peak_gb:7.2f}".format(**row), flush=True)
    record: dict[str, Any] = {"recipe": recipe, "runs": rows, **summary(rows)}
    print(" med  {acc:.3f}  {nmi:.3f}  {ari:.3f}  {seconds:7.1f}  {peak_gb:7.2f}".format(**record["median"]))
    return record


def kmeans_on_pixels(seeds: Sequence[int]) -> dict[str, Any]:
    """What the pixels themselves give: scikit-learn's k-means, ten restarts."""
    digits = load_digits()
    rows = []
    for seed in seeds:
        start = time.perf_counter()
        found = KMeans(len(digits.target_names), n_init=10, random_state=seed).fit_predict(digits.data)
        seconds = time.perf_counter() - start
        scores = clustering_scores(digits.target, found)
        rows.append({"seed": seed, **{name: scores[name] for name in SCORES}, "seconds": seconds})
    return {"recipe": "k-means on pixels", "runs": rows, **summary(rows)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean, sample standard deviation (0 of a single run) and median over the seeds."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "seed"}
    return {
        "mean": {name: statistics.mean(values) for name, values in columns.items()},
        "std": {name: statistics.stdev(values) if len(values) > 1 else 0.0 for name, values in columns.items()},
        "median": {name: statistics.median(values) for name, values in columns.items()},
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """All recipes as Markdown, the best median first: mean ± deviation, and the median in brackets."""
    lines = ["| recipe | ACC | NMI | ARI | seconds |", "|---|---|---|---|---|"]
    for record in sorted(records, key=lambda r: -r["median"]["acc"]):
        mean, std, median = record["mean"], record["std"], record["median"]
        cells = [f"{mean[name]:.3f} ± {std[name]:.3f} ({median[name]:.3f})" for name in SCORES]
        lines.append(f"| {record['recipe']} | {' | '.join(cells)} | {median['seconds']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--recipe", default="propos-digits")
    which.add_argument("--all", action="store_true", help="the digits recipe of every method, and a table of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args, flags = parser.parse_known_args()
    if flags and args.all:
        parser.error(f"flags are tried with one recipe, not with all: {' '.join(flags)}")
    if flags:
        measure(args.recipe, args.seeds, flags)
        return

    pixels = kmeans_on_pixels(args.seeds)
    if not args.all:
        record = measure(args.recipe, args.seeds)
        print(f"k-means on pixels: ACC {pixels['median']['acc']:.3f}")
        keep(f"quality_{args.recipe}", {**record, "kmeans_on_pixels_acc": pixels["median"]["acc"]})
        return
    records: list[dict[str, Any]] = []
    for recipe in (name for name in recipe_names() if name.endswith("-digits")):
        records.append(measure(recipe, args.seeds))
        keep("quality_digits", {"recipes": records, "kmeans_on_pixels": pixels})
    print(f"\nMean ± standard deviation (median) over seeds {args.seeds}\n\n{table([*records, pixels])}")


if __name__ == "__main__":
    main()
