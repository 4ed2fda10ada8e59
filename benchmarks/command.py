"""Running the whole command in a process of its own, imports and report included, and what it took."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shoal.device import multiplies_bfloat16
from shoal.files import atomic_write

RESULTS = Path(__file__).parent / "results"
SCORES = ("acc", "nmi", "ari")


@dataclass(frozen=True)
class Finished:
    """One run: its rows of ``metrics.jsonl`` and when each came, wall time, and the system's account of it."""

    metrics: list[dict[str, Any]]
    after: list[float]
    """Seconds from the start of the command to each row."""
    seconds: float
    peak_gb: float
    cpu_seconds: float

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
    after: list[float] = []
    ended = 0
    while not ended:
        time.sleep(0.1)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        after += [time.perf_counter() - start] * (len(_lines(folder)) - len(after))
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Finished(
        [json.loads(line) for line in _lines(folder)],
        after,
        seconds,
        usage.ru_maxrss / 2**20,
        usage.ru_utime + usage.ru_stime,
    )


def _lines(folder: Path) -> list[str]:
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def by_seed(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows in the order of their seeds, with this one in the place of the last one of its seed."""
    return sorted([*(each for each in rows if each["seed"] != row["seed"]), row], key=lambda each: each["seed"])


def keep(name: str, record: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write figures and the machine they are from to ``results/``, or to another folder."""
    atomic_write(folder / f"{name}.json", (json.dumps({"machine": machine(), **record}, indent=1) + "\n").encode())


@functools.cache
def machine() -> dict[str, Any]:
    """What figures depend on: processor, GPU, versions and commit, as they were when first asked for."""
    return {
        "cpu": _processor(),
        "cpu_count": os.cpu_count(),
        "bfloat16": multiplies_bfloat16(torch.device("cpu")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Nothing where the files were copied without their history."""
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None


def _processor() -> str:
    """Its name where Linux tells it, or its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
