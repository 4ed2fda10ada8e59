"""All seven methods on digits, five seeds each: one ``shoal sweep`` and one ``shoal compare``.

    python benchmarks/sweep_digits.py                                  # 35 runs, about a minute each on a core
    python benchmarks/sweep_digits.py --jobs 2 --out /tmp/digits       # where the runs go; stopped, it resumes there
    python benchmarks/sweep_digits.py --methods byol propos --seeds 0..1 --epochs 5      # a trial: printed alone

The tables go to ``benchmarks/results/sweep_digits.md``, and all numbers to ``.json``; the page with the
curves is left beside the runs.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from command import RESULTS, keep
from shoal.methods import METHODS


def shoal(*words: str) -> None:
    """Run the command; an error ends the script."""
    if status := subprocess.run([sys.executable, "-m", "shoal", *words]).returncode:
        raise SystemExit(status)


def rows_of(text: str) -> list[dict[str, object]]:
    """The rows of the comparison's CSV file, with numbers for numbers."""
    return [{key: _number(value) for key, value in row.items() if value} for row in csv.DictReader(io.StringIO(text))]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def main() -> None:
    """Train, compare, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", default="0..4")
    parser.add_argument("--epochs", type=int, help="of every run, instead of the recipes'")
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--out", type=Path, default=Path("sweeps/digits"))
    args = parser.parse_args()
    recipes = [f"{method}-digits" for method in args.methods]
    grid = ["--grid", f"epochs={args.epochs}"] if args.epochs else []
    shoal("sweep", *recipes, "--seeds", args.seeds, *grid, "--jobs", args.jobs, "--out", str(args.out))
    with tempfile.TemporaryDirectory() as scratch:
        files = {suffix: Path(scratch) / f"sweep_digits.{suffix}" for suffix in ("md", "csv", "html")}
        shoal("compare", str(args.out), "--out", *map(str, files.values()))
        (args.out / "comparison.html").write_bytes(files["html"].read_bytes())
        if args.epochs or args.methods != list(METHODS):
            return
        (RESULTS / "sweep_digits.md").write_bytes(files["md"].read_bytes())
        keep("sweep_digits", {"seeds": args.seeds, "variants": rows_of(files["csv"].read_text(encoding="utf-8"))})


if __name__ == "__main__":
    main()
