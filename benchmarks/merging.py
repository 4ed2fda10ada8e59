"""Where k is not known: digits in too many clusters, merged to ten, and with a number that training finds itself.

    python benchmarks/merging.py --seeds 0,1 --out /tmp/merging

One ``shoal sweep`` over ``--n-clusters``, and ``shoal evaluate --merge-to 10`` of each run. Before and after the
merging: ACC with a one-to-one matching, ACC with a many-to-one matching (purity), NMI, ARI. What is done is skipped.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from command import keep
from shoal.evaluation import Evaluation
from shoal.results.result import Result
from shoal.sweeps.folder import SweepFolder

SHOWN = ("acc", "purity", "nmi", "ari")
CLASSES = 10


def shoal(*words: str) -> None:
    """Run the command; an error ends the script."""
    subprocess.run([sys.executable, "-m", "shoal", *words], check=True, stdout=subprocess.DEVNULL)


def measured(path: Path) -> dict[str, float]:
    """Figures of a run, and of its clusters merged to ten where it has more."""
    more = len(Result.load(path).centers) > CLASSES
    file = path / "evaluation.json"
    found = Evaluation.load(file)
    if found is None or (more and found.merged is None):
        shoal("evaluate", str(path), *(["--merge-to", str(CLASSES)] if more else []))
        found = Evaluation.load(file)
    assert found is not None
    merged = found.scores if found.merged is None else found.merged.scores
    after = {f"{name}_merged": merged[name] for name in SHOWN}
    return {"clusters": found.clusters, **{name: found.scores[name] for name in SHOWN}, **after}


def main() -> None:
    """Train, merge, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--recipe", default="propos-digits")
    parser.add_argument("--numbers", nargs="+", default=["10", "20", "40", "auto"])
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    grid = [f"n_clusters={','.join(args.numbers)}", "cluster_from=30"]
    shoal("sweep", args.recipe, "--seeds", args.seeds, "--grid", *grid, "--jobs", args.jobs, "--out", str(args.out))
    rows: list[dict[str, Any]] = []
    for number in args.numbers:
        members = [each for each in SweepFolder(args.out).members() if str(each.settings["n_clusters"]) == number]
        found = [measured(args.out / member.name) for member in members]
        rows.append({"n_clusters": number, **{name: statistics.fmean(f[name] for f in found) for name in found[0]}})
        print(
            " ".join(f"{name} {value:.3f}" if isinstance(value, float) else value for name, value in rows[-1].items())
        )
    keep("merging_digits", {"recipe": args.recipe, "seeds": args.seeds, "rows": rows})


if __name__ == "__main__":
    main()
