"""Quality of the MNIST recipe on all 70 000 images, or of another: the whole command, against k-means on pixels.

    python benchmarks/quality_mnist.py                        # seed 0 of propos-mnist, on the data set by its name
    python benchmarks/quality_mnist.py --path DIR --seeds 3 4
    python benchmarks/quality_mnist.py --recipe emp-cifar10-small --path CIFAR

DIR holds the Parquet files of the data set as the Hugging Face hub stores it, train and test. Each run is the command
in a process of its own, imports, decoding (unless the cache has the images) and report included. Scores are printed for
every epoch that began with a clustering; figures go to ``benchmarks/results/`` as JSON, beside those of other seeds of
the same recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml
from sklearn.cluster import KMeans

from command import RESULTS, SCORES, by_seed, keep, train
from shoal.config import recipe_text
from shoal.data import to_images
from shoal.evaluation import clustering_scores


def kmeans_on_pixels(path: str, seed: int) -> dict[str, float]:
    """What the pixels themselves give."""
    images = to_images(path)
    channels = 1 if bool((images.pixels[:, :1] == images.pixels).all()) else 3
    pixels = images.pixels[:, :channels].flatten(1).float().div(255).numpy()
    return clustering_scores(images.targets, KMeans(10, n_init=10, random_state=seed).fit_predict(pixels))


def kept(recipe: str) -> dict[str, Any]:
    """Figures of seeds that ran before with the same recipe."""
    path, settings = RESULTS / f"quality_{recipe}.json", recipe_text(recipe)
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if yaml.safe_load(record.get("settings", "")) != yaml.safe_load(settings):  # a comment may change
        record = {"recipe": recipe, "settings": settings, "runs": [], "curves": {}}
    return record


def main() -> None:
    """Run, print a table by epoch, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="mnist")
    parser.add_argument("--recipe", default="propos-mnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()

    record = kept(args.recipe)
    record["kmeans_on_pixels"] = kmeans_on_pixels(args.path, args.seeds[0])
    print("k-means on pixels: ACC {acc:.3f}, NMI {nmi:.3f}, ARI {ari:.3f}".format(**record["kmeans_on_pixels"]))
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            run = train(args.recipe, seed, Path(scratch) / "run", "--data.path", args.path)
        # Scores are those an epoch began with, minutes those after which it had ended: known by then at the latest.
        curve = [
            {name: row[name] for name in ("epoch", *SCORES)} | {"minutes": seconds / 60}
            for row, seconds in zip(run.metrics, run.after, strict=True)
            if "acc" in row
        ]
        print(f"seed {seed}\nepoch  minutes    ACC    NMI    ARI")
        for scores in curve:
            print("{epoch:>5}  {minutes:7.1f}  {acc:.3f}  {nmi:.3f}  {ari:.3f}".format(**scores))
        print(f"{run.seconds / 60:.1f} minutes, peak {run.peak_gb:.2f} GB", flush=True)
        rows = record["runs"] = by_seed(record["runs"], run.row(seed))
        record["curves"][str(seed)] = curve
        record["mean"] = {name: statistics.mean(row[name] for row in rows) for name in rows[0] if name != "seed"}
        record.pop("machine", None)  # that of the last run is kept
        keep(f"quality_{args.recipe}", record)
    print(f"mean of {len(rows)}: " + ", ".join(f"{name} {record['mean'][name]:.4f}" for name in SCORES))


if __name__ == "__main__":
    main()
