"""The same benchmark on two versions of shoal, turn by turn on the same machine.

    git worktree add /tmp/before COMMIT
    python benchmarks/versions.py /tmp/before kmeans.py --repeats 3
    python benchmarks/versions.py /tmp/before quality_digits.py --rounds 3 -- --seeds 0

Each version runs its own copy of the script on its own code, in a process of its own with a cache of its own; options
after ``--`` go to the script. With every output stand the CPU seconds of its process and of those that it started.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def run(root: Path, script: str, options: list[str], cache: str) -> float:
    """CPU seconds of a version's benchmark, whose output is printed."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "SHOAL_CACHE": cache}
    before = os.times()
    subprocess.run([sys.executable, f"benchmarks/{script}", *options], cwd=root, env=environment, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Old and new in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout of the older version")
    parser.add_argument("script", help="name of the benchmark, which both have")
    parser.add_argument("--rounds", type=int, default=2, help="how often each version runs (default: 2)")
    arguments, options = parser.parse_known_args()
    options = [word for word in options if word != "--"]
    roots = {"old": arguments.old.resolve(), "new": HERE}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(arguments.rounds):
            for name, root in roots.items():
                print(f"== {name}, round {turn + 1}", flush=True)
                seconds = run(root, arguments.script, options, f"{scratch}/{name}")
                print(f"== {name}: {seconds:.1f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
