"""Whether ``--resample`` helps where classes differ in size: long-tailed digits, 1:10 and 1:100, with and without.

    python benchmarks/skew.py --seeds 10,11 --out /tmp/skew          # by which settings are chosen
    python benchmarks/skew.py --seeds 0..2 --out /tmp/skew           # to report

Class c of 0 to 9 keeps 178 · ratio^(−c/9) of its images, drawn with seed 0. Epochs are as many as give the steps of the
recipe on all digits. ACC, NMI and ARI are over images; "recall" is the mean over classes of the share in the matched
cluster, in which each class counts the same. Each ratio is a ``shoal sweep``; what is done is skipped, so the script
can be stopped and run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from command import RESULTS, keep
from shoal.evaluation import clustering_scores
from shoal.evaluation.metrics import class_scores
from shoal.results.result import Result
from shoal.sweeps.folder import SweepFolder

MOST = 178
"""Images of the first class; all classes have as many."""

RECIPE, EPOCHS = "propos-digits", 90


def write_tail(folder: Path, ratio: int) -> int:
    """The images of a long tail, a subfolder per class; how many there are."""
    digits, rng = load_digits(), np.random.default_rng(0)
    n = 0
    for label in range(10):
        rows = np.flatnonzero(digits.target == label)[:MOST]
        kept = rng.permutation(rows)[: round(MOST * ratio ** (-label / 9))]
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for row in kept:
            pixels = np.rint(digits.images[row] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{row}.png")
        n += len(kept)
    return n


def measured(path: Path) -> dict[str, float]:
    """The scores of a finished run."""
    result = Result.load(path)
    embedded = result.embedded
    assert embedded is not None
    labels = result.assignments.labels
    scores = clustering_scores(embedded.targets, labels)
    classes = class_scores(embedded.targets, labels, len(result.centers), embedded.classes)
    recall = statistics.fmean(each.recall for each in classes)
    return {"acc": scores["acc"], "nmi": scores["nmi"], "ari": scores["ari"], "recall": recall}


def main() -> None:
    """Train, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="10,11")
    parser.add_argument("--ratios", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for ratio in args.ratios:
        n = write_tail(args.out / f"digits-{ratio}", ratio)
        sweep = args.out / f"sweep-{ratio}-seeds-{args.seeds}"
        epochs = round(EPOCHS * 1797 / n)
        grid = [f"data.path={args.out.resolve()}/digits-{ratio}", f"epochs={epochs}", "resample=false,true"]
        words = ["sweep", RECIPE, "--seeds", args.seeds, "--grid", *grid, "--jobs", args.jobs, "--out", str(sweep)]
        subprocess.run([sys.executable, "-m", "shoal", *words], check=True)
        for resample in (False, True):
            members = [each for each in SweepFolder(sweep).members() if each.settings["resample"] == resample]
            found = [measured(sweep / member.name) for member in members]
            row = {"ratio": ratio, "images": n, "epochs": epochs, "resample": resample, "seeds": args.seeds}
            for name in found[0]:
                values = [each[name] for each in found]
                row |= {name: statistics.fmean(values), f"{name}_runs": values}
            rows.append(row)
            print({key: value for key, value in row.items() if not key.endswith("_runs")}, flush=True)
    kept = RESULTS / "skew_digits.json"
    known = json.loads(kept.read_text())["rows"] if kept.exists() else []
    others = [row for row in known if (row["seeds"], row["ratio"]) not in {(args.seeds, each) for each in args.ratios}]
    keep("skew_digits", {"recipe": RECIPE, "rows": [*others, *rows]})


if __name__ == "__main__":
    main()
