"""Running the whole command in a process of its own, imports and report included, and what it took."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
SCORES = ("acc", "nmi", "ari")


@dataclass(frozen=True)
class Finished:
    """One run: its rows of ``metrics.jsonl``, wall time and peak memory as the operating system accounts for it."""

    metrics: list[dict[str, Any]]
    seconds: float
    peak_gb: float

    def row(self, seed: int) -> dict[str, Any]:
        """Seed, last scores and cost."""
        scores = {name: self.metrics[-1][name] for name in SCORES}
        return {"seed": seed, **scores, "seconds": self.seconds, "peak_gb": self.peak_gb}


def train(recipe: str, seed: int, folder: Path, *flags: str) -> Finished:
    """``shoal train`` with a recipe, into a folder that does not exist yet."""
    command = [sys.executable, "-m", "shoal", "train", recipe, "--seed", str(seed), "--quiet", "--out", str(folder)]
    command += flags
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Finished(metrics, seconds, usage.ru_maxrss / 2**20)


def keep(name: str, record: dict[str, Any]) -> None:
    """Write figures and the machine they are from to ``results/``."""
    machine = {"cpu_count": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, **record}, indent=1) + "\n")
