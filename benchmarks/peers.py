"""What others make of the same images in the CPU time of shoal's recipe: accuracy, and seconds, seed by seed.

    python benchmarks/peers.py digits                                   # seeds 0 1 2 of all peers
    python benchmarks/peers.py mnist --path DIR --seeds 0 --peers DEC "UMAP + HDBSCAN"
    python benchmarks/peers.py digits --table                           # the table again, nothing is run

It wants ``pip install clustpy lightly``, which shoal does not need. Each run is a process of its own on one thread,
imports included; CPU seconds are those that the operating system accounts it. The peers have their authors' settings,
and their epochs where shoal's time is enough for these, else as many as take that long. Figures go to
``benchmarks/results/`` run by run, each in the place of the last one of its seed, and the table into ``RESULTS.md``.
"shoal" among the peers is the recipe; without it, the time is that of its runs in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command import RESULTS, by_seed, keep, machine, train
from peers_run import PEERS
from run_all import HERE, put

RECIPES = {"digits": "propos-digits", "mnist": "propos-mnist", "cifar10": "emp-cifar10-small"}
"""shoal's recipe for each set of images."""
SHOAL = "shoal"
DEFAULT_SECONDS = 600.0
"""A peer's time while there is no run of shoal."""


def shoal_run(recipe: str, path: str, seed: int) -> dict[str, Any]:
    """The whole command, report included."""
    with tempfile.TemporaryDirectory() as scratch:
        done = train(recipe, seed, Path(scratch) / "run", "--data.path", path)
    row = done.row(seed)
    return {"seed": seed, **{key: row[key] for key in ("acc", "nmi", "ari")}, "cpu_seconds": done.cpu_seconds}


def peer_run(peer: str, path: str, seed: int, budget: float) -> dict[str, Any]:
    """Scores, CPU seconds and epochs; of a peer that fails, the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        out, said = Path(scratch) / "row.json", Path(scratch) / "said"
        command = [sys.executable, str(HERE / "peers_run.py"), peer, path, "--seed", str(seed)]
        with said.open("w") as stream:
            process = subprocess.Popen(
                [*command, "--budget", str(budget), "--out", str(out)], stdout=stream, stderr=subprocess.STDOUT
            )
            _, status, usage = os.wait4(process.pid, 0)
        cpu = usage.ru_utime + usage.ru_stime
        if not out.exists():
            process.returncode = os.waitstatus_to_exitcode(status)
            return {"seed": seed, "failed": _reason(said.read_text(errors="replace"), process.returncode, cpu)}
        row: dict[str, Any] = json.loads(out.read_text())
    return {**row, "cpu_seconds": cpu - row.pop("uncounted")}


def _reason(said: str, code: int, cpu: float) -> str:
    if code < 0:
        return f"stopped after {cpu:.0f} CPU seconds, of time or memory"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][-160:] if lines else f"exit code {code}"


def _range(values: Sequence[float]) -> str:
    """Their median, and the smallest and largest where there are several."""
    middle = f"{statistics.median(values):.3f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3f} to {max(values):.3f})"


def _epochs(row: dict[str, Any]) -> str:
    own = [n for n in row.get("own_epochs", ()) if n]
    if not own:
        return ""
    done = [n for n in row["epochs"] if n]
    return (
        "own, " + " + ".join(map(str, own))
        if done == own
        else f"{' + '.join(map(str, done))} of {' + '.join(map(str, own))}"
    )


def table(record: dict[str, Any]) -> str:
    """All as Markdown, the best median first; those that failed last, with the reason."""
    lines = ["| | seeds | ACC | NMI | CPU s | epochs | clusters, noise |", "|---|---|---|---|---|---|---|"]
    done = {name: [row for row in rows if "acc" in row] for name, rows in record["runs"].items()}
    for name in sorted(filter(done.get, done), key=lambda n: -statistics.median(row["acc"] for row in done[n])):
        rows = done[name]
        columns = [_range([row[key] for row in rows]) for key in ("acc", "nmi")]
        seconds = statistics.median(row["cpu_seconds"] for row in rows)
        noise = [row.get("noise", 0.0) for row in rows]
        found = f"{', '.join(str(row['clusters']) for row in rows)}; {max(noise):.0%}" if any(noise) else ""
        seeds = ", ".join(str(row["seed"]) for row in rows)
        lines.append(f"| {name} | {seeds} | {' | '.join(columns)} | {seconds:.0f} | {_epochs(rows[0])} | {found} |")
    for name, rows in record["runs"].items():
        lines += [f"| {name} | {row['seed']} | {row['failed']} | | | | |" for row in rows if "failed" in row]
    return "\n".join(lines)


def section(images: str, record: dict[str, Any]) -> str:
    """The table with the command that gives it and the machine of the last run."""
    on = ", ".join(f"{key} {value}" for key, value in (record.get("machine") or machine()).items() if value is not None)
    return f"`python benchmarks/peers.py {images}`\n\n{table(record)}\n\n{on}.\n"


def main() -> None:
    """Measure shoal, then each peer within its time; keep and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", choices=RECIPES)
    parser.add_argument("--path", help="where they are, if not at their name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", nargs="*", default=(SHOAL, *PEERS), choices=(SHOAL, *PEERS), metavar="PEER")
    parser.add_argument("--table", action="store_true", help="write the table of the figures that are there")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    name, recipe = f"peers_{args.images}", RECIPES[args.images]
    path, file = args.path or args.images, RESULTS / f"{name}.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}}

    def row_of(peer: str, row: dict[str, Any]) -> None:
        record.pop("machine", None)  # that of the new run is kept
        record["runs"][peer] = by_seed(record["runs"].get(peer, []), row)
        print(peer, json.dumps(row), flush=True)
        keep(name, record)

    if not args.table:
        for peer in sorted(args.peers, key=lambda peer: peer != SHOAL):
            own = [row["cpu_seconds"] for row in record["runs"].get(recipe, [])]
            budget = statistics.median(own) if own else DEFAULT_SECONDS
            for seed in args.seeds:
                if peer == SHOAL:
                    row_of(recipe, shoal_run(recipe, path, seed))
                else:
                    row_of(peer, peer_run(peer, path, seed, budget))
    print(table(record))
    page = HERE / "RESULTS.md"
    page.write_text(put(page.read_text(), name.replace("_", "-"), section(args.images, record)))


if __name__ == "__main__":
    main()
