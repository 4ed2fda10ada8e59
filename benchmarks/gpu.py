"""The GPU sheet: how fast shoal trains, augments, clusters and embeds on one CUDA GPU, beside what the GPU can do.

    python benchmarks/gpu.py                            # 8 minutes at most; figures in benchmarks/results
    python benchmarks/gpu.py --minutes 20 --out FOLDER
    python benchmarks/gpu.py --parts peaks resnet18
    python benchmarks/gpu.py --tiny                     # all of it in small, on a CPU too; figures mean nothing

Nothing is downloaded: networks have random weights and images are noise. The parts run in order of importance, each in
a process of its own, so that none can take the others with it: one that fails, hangs or is cut off at the time limit
keeps what it had found. The file of figures is written anew whenever there are new ones. Peaks are measured here, as
the best rates of large products and of a large copy; FLOPs are those of the backbone's products.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from command import RESULTS, keep
from gpu_parts import augmentation, clustering, embedding_rates, peaks
from gpu_sheet import TINY, Sheet, Sizes, in_a_line
from gpu_steps import ladder
from shoal.device import compute_device


@dataclass(frozen=True)
class Part:
    """What is measured, and with how many seconds left it is worth beginning."""

    title: str
    measure: Callable[[Sheet], None]
    least: int


PARTS = {
    "peaks": Part("What the device can do", peaks, 10),
    "resnet18": Part("A step of ProPos", lambda sheet: ladder(sheet, sheet.sizes.backbones[0]), 30),
    "kmeans": Part("k-means", lambda sheet: clustering(sheet, sheet.sizes.clustered, ("clustered", "overlapping")), 20),
    "augment": Part("Two views of each image", augmentation, 20),
    "embed": Part("Embedding in an E-step", embedding_rates, 25),
    "kmeans-large": Part(
        "k-means of many rows", lambda sheet: clustering(sheet, sheet.sizes.clustered_large, ("overlapping",)), 30
    ),
    "resnet34": Part("A step of ProPos, deeper network", lambda sheet: ladder(sheet, sheet.sizes.backbones[1]), 45),
}
"""In order of importance."""

PATIENCE = 2.0
"""Seconds between two looks at what a part has found."""
MOST = 0.5
"""Share of the time that a part may take, unless it is the last."""
RESERVE = 5.0
"""Seconds kept for the end."""


def run_part(name: str, folder: Path, sizes: Sizes) -> None:
    """Measure one part in this process; what fails ends it with a reason."""
    known = folder / "peaks.json"
    found = json.loads(known.read_text()) if name != "peaks" and known.exists() else {}
    sheet = Sheet(sizes, compute_device(), folder / f"{name}.json", found)
    try:
        PARTS[name].measure(sheet)
    except Exception as error:
        (folder / f"{name}.failed").write_text(in_a_line(error))
        raise


class Parent:
    """Runs the parts one after the other and keeps what they find."""

    def __init__(self, scratch: Path, seconds: float, tiny: bool, out: Path | None) -> None:
        self.record: dict[str, Any] = {"device": device(), "status": {}, "parts": {}}
        self._scratch, self._seconds, self._tiny, self._out = scratch, seconds, tiny, out
        self._ends_at = time.monotonic() + seconds

    def part(self, name: str, *, last: bool = False) -> None:
        """Run a part in a process of its own, if there is time, and say how it went."""
        start = time.monotonic()
        left = self._ends_at - start
        if left < PARTS[name].least and not self._tiny:
            status = f"skipped: {max(left, 0):.0f} s are left, and it is worth beginning with {PARTS[name].least}"
        else:
            print(f"\n{PARTS[name].title}", flush=True)
            status = self._run(name, left if last else min(left, MOST * self._seconds))
            status += f", {time.monotonic() - start:.0f} s"
        self.record["status"][name] = status
        print(f"  {name}: {status}", flush=True)
        self._keep()

    def command(self, name: str) -> list[str]:
        """What the part's process runs."""
        command = [sys.executable, __file__, "--part", name, "--scratch", str(self._scratch)]
        return [*command, "--tiny"] if self._tiny else command

    def _run(self, name: str, seconds: float) -> str:
        process = subprocess.Popen(self.command(name), start_new_session=True)
        until = time.monotonic() + seconds
        try:
            while process.poll() is None and time.monotonic() < until:
                with_patience(process, min(PATIENCE, until - time.monotonic()))
                self._gather(name)
        finally:
            cut_off = process.poll() is None
            if cut_off:
                os.killpg(process.pid, signal.SIGKILL)  # the compiler's processes with it
                process.wait()
        self._gather(name)
        if cut_off:
            return "cut off at the time limit"
        if process.returncode < 0:
            return f"failed: ended by signal {-process.returncode}"
        reason = self._scratch / f"{name}.failed"
        return f"failed: {reason.read_text() if reason.exists() else 'see above'}" if process.returncode else "done"

    def _gather(self, name: str) -> None:
        """Take what a part has found since the last look."""
        file = self._scratch / f"{name}.json"
        if file.exists() and (found := json.loads(file.read_text())) != self.record["parts"].get(name):
            self.record["parts"][name] = found
            self._keep()

    def _keep(self) -> None:
        if self._out:
            slug = re.sub(r"[^a-z0-9]+", "_", self.record["device"]["name"].lower()).strip("_")
            keep(f"gpu_{slug}", self.record, self._out)


def with_patience(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a process to end, but no longer than that."""
    try:
        process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        return


def device() -> dict[str, Any]:
    """The GPU and what drives it, as far as that is told."""
    if not torch.cuda.is_available():
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True).stdout if shutil.which("nvidia-smi") else ""
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gb": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver, power limit, clock": told.strip() or None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def stop(signum: int, _frame: object) -> NoReturn:
    """End in good order, the part's processes too."""
    raise SystemExit(128 + signum)


def main() -> None:
    """Run the parts, or one of them as their parent's child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="time for all parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument("--out", type=Path, help="folder for the file of figures")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU; figures are kept only with --out")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        run_part(args.part, args.scratch, TINY if args.tiny else Sizes())
        return
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA GPU here: --tiny runs all parts in small, on a CPU.")
    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory() as scratch:
        parent = Parent(
            Path(scratch), 60 * args.minutes - RESERVE, args.tiny, args.out or (None if args.tiny else RESULTS)
        )
        print(" ".join(f"{key}: {value};" for key, value in parent.record["device"].items()), flush=True)
        for name in args.parts:
            parent.part(name, last=name == args.parts[-1])
    print("\n" + "\n".join(f"{name:<14}{status}" for name, status in parent.record["status"].items()))


if __name__ == "__main__":
    main()
