"""Where the memory of training on a CPU goes: the peak of the process in each phase of the first steps of a recipe.

    python benchmarks/train_memory.py propos-cifar10 --data.path /data/cifar10
    python benchmarks/train_memory.py propos-cifar10 --data.path /data/cifar10 --recompute

As in the command, large blocks go back to the system at once, and torch asks for pages of 2 MB.

Each phase has the largest memory that the process had during it (VmHWM, which Linux lets a process set back), what it
had afterwards, and how much of that are pages of files, which the system takes back when it needs them; and its CPU
seconds. Of the E-step, features of some images are computed and those of all are clustered as if they were random. Last
come the CPU seconds of a step and what the dry run expects.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GB = 2**20  # /proc counts in KB


class Phases:
    """The lines of the table, printed as they come."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._start = time.process_time()
        print(f"{'phase':<34}{'peak':>8}{'after':>8}{'files':>8}{'CPU s':>8}   (GB)")
        RESET.write_text("5")

    def done(self, name: str) -> None:
        """A phase is over."""
        found = dict(line.split(":") for line in STATUS.read_text().splitlines())
        peak, after, files = (int(found[key].split()[0]) / GB for key in ("VmHWM", "VmRSS", "RssFile"))
        seconds, self._start = time.process_time() - self._start, time.process_time()
        print(f"{name:<34}{peak:>8.2f}{after:>8.2f}{files:>8.2f}{seconds:>8.1f}", flush=True)
        self.peak = max(self.peak, peak)
        RESET.write_text("5")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--embedded", type=int, default=2048, help="images whose features are computed")
    own, flags = parser.parse_known_args()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    phases = Phases()
    import torch

    phases.done("import torch")
    from shoal.cli.train import TrainCommand
    from shoal.data import load_images
    from shoal.device import return_large_blocks
    from shoal.progress import Progress
    from shoal.results.train import start

    config = TrainCommand.parse("train", flags).config
    return_large_blocks()
    phases.done("import shoal")
    images = load_images(config.data)
    phases.done(f"read {len(images)} images")
    with tempfile.TemporaryDirectory() as folder:
        run = start(config, Path(folder) / "run", Progress(), images)
        run.state.order = torch.randperm(len(images), generator=run.generator)
        phases.done("weights, images checked")
        steps(run, phases, own.steps)
        run.save()
        phases.done("save")
    e_step(run, phases, own.embedded)
    expected(flags, phases)


def steps(run: Any, phases: Phases, n: int) -> None:
    """Some steps, with clusters where the losses use them."""
    import torch

    from shoal.training.loop import pixels_to_come, train_step
    from shoal.types import Clustering

    with torch.no_grad():
        d = run.method.eval().embed(run.images.pixels[:2] / 255).shape[1]
    run.method.train()
    run.state.epoch = run.config.cluster_from
    found = []
    for k in {run.config.n_clusters, *run.method.granularities}:
        labels = torch.randint(k, (len(run.images),), generator=run.generator)
        found.append(Clustering(labels, torch.randn(k, d, generator=run.generator), torch.zeros(len(labels))))
    run.state.clusterings = tuple(sorted(found, key=lambda each: len(each.centers) != run.config.n_clusters))
    forward = run.forward

    def watched(*args: Any) -> Any:
        phases.done(f"step {run.state.step + 1}: views")
        terms = forward(*args)
        phases.done(f"step {run.state.step + 1}: forward")
        return terms

    run.forward = watched
    run.optimizer.register_step_pre_hook(lambda *_: phases.done(f"step {run.state.step + 1}: backward"))
    with closing(pixels_to_come(run)) as pixels:
        taken = []
        for _ in range(n):
            start = time.process_time()
            terms = train_step(run, pixels)
            taken.append(time.process_time() - start)
            run.count_step(terms, 1.0)
            del terms
            phases.done(f"step {run.state.step}: optimiser, target")
        print(f"a step takes {statistics.median(taken):.1f} CPU seconds (median of {n})")


def e_step(run: Any, phases: Phases, n: int) -> None:
    """The parts of an E-step."""
    import torch
    import torch.nn.functional as F

    from shoal.clustering.kmeans import kmeans
    from shoal.evaluation import score
    from shoal.methods.embedding import embed_all

    rows = torch.arange(min(n, len(run.images)))
    features = embed_all(run.method, run.images.pixels, run.device, run.config.precision, rows=rows)
    phases.done(f"E-step: features of {len(rows)}")
    every = F.normalize(torch.randn(len(run.images), features.shape[1], generator=run.generator), dim=1)
    found = kmeans(every, run.config.n_clusters, generator=run.generator, n_init=10)
    phases.done(f"E-step: k-means of {len(every)}")
    score(run.images, every, found, None, run.config.seed)
    phases.done("E-step: scores")


def expected(flags: list[str], phases: Phases) -> None:
    """What the dry run says, in a process of its own, beside what was taken."""
    command = [sys.executable, "-m", "shoal", "train", *flags, "--dry-run"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    said = next(line for line in lines if line.startswith("memory"))
    print(f"\n{phases.peak:.2f} GB at the peak; the dry run says: {said.removeprefix('memory').strip()}")


if __name__ == "__main__":
    if not RESET.exists():
        sys.exit("this needs Linux: only there a process can set back the peak of its memory.")
    main()
