"""Measure the speed of this machine: every table of RESULTS.md's section "Speed" anew, with machine and versions.

    python benchmarks/run_all.py                     # all of them, half an hour to an hour on two quiet cores
    python benchmarks/run_all.py step augment-32     # some; the others stay as they are
    python benchmarks/run_all.py --out speed.md      # into another file

lightly and kornia are compared with when they are installed (pip install lightly kornia).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from command import machine

HERE = Path(__file__).parent
NOISE = ["--repeats", "5", "--noise", "256", "--epochs", "3", "--cluster-from", "1", "--optim.warmup-epochs", "1"]
TABLES = {
    "step": ["step.py", "--save", "step"],
    "e-step": ["e_step.py", "--save", "e_step"],
    "augment-32": ["augment.py"],
    "augment-224": ["augment.py", "--side", "224", "--batch", "64", "--repeats", "5"],
    "start": ["start.py", "--save", "start"],
    "digits": ["quality_digits.py"],
    "ranks-digits": ["ranks.py", "propos-digits", "--epochs", "12", "--repeats", "7", "--save", "ranks_digits"],
    "ranks-resnet18": ["ranks.py", "propos-cifar10", *NOISE, "--optim.batch-size", "128", "--save", "ranks_resnet18"],
    "kmeans": ["kmeans.py"],
    "map": ["imagenet_map.py", "--save", "imagenet_map"],
}
"""What is run, by the name of its table."""


def measured(name: str) -> str:
    """A table as Markdown: the command, what it ran on, and what it printed."""
    script, *flags = TABLES[name]
    on = ", ".join(f"{key} {value}" for key, value in machine().items() if value is not None)
    print(f"{name}: {' '.join([script, *flags])}", flush=True)
    done = subprocess.run([sys.executable, HERE / script, *flags], capture_output=True, text=True, check=False)
    printed = done.stdout.rstrip() if done.returncode == 0 else f"failed:\n{done.stderr.strip()[-500:]}"
    print(printed, flush=True)
    return f"`python benchmarks/{' '.join([script, *flags])}`\n\n```\n{printed}\n```\n\n{on}.\n"


def put(text: str, name: str, table: str) -> str:
    """The page with this table in the place of the last one of its name, or at its end."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    section = f"{begin}{table}{end}"
    found = re.search(re.escape(begin) + ".*?" + re.escape(end), text, re.S)
    return text[: found.start()] + section + text[found.end() :] if found else f"{text.rstrip()}\n\n{section}"


def main() -> None:
    """Run the scripts one after the other, and keep each table as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="*", choices=[[], *TABLES], help="which; all if none is named")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    args = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    for name in args.tables or TABLES:
        table = measured(name)
        text = args.out.read_text() if args.out.exists() else "# Speed\n"
        args.out.write_text(put(text, name, table))


if __name__ == "__main__":
    main()
