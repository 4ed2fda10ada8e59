"""Golden curves: loss terms and features of 30 steps of a tiny run of each method, kept in curves.json.

They watch the whole loop: draws and their order, augmentation, losses, optimiser, schedule, momentum, queues, k-means.
A change that is not meant shows here; one that is meant is taken over by hand:

    python -m tests.golden.curves            says what has moved
    python -m tests.golden.curves --renew    and keeps it
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from shoal.config import RunConfig
from shoal.data import ViewConfig
from shoal.methods import (
    BYOLConfig,
    CCConfig,
    EMPConfig,
    MethodConfig,
    MoCoConfig,
    PCLConfig,
    ProPosConfig,
    SimCLRConfig,
    SimSiamConfig,
)
from shoal.progress import Progress
from shoal.training import Run, fit
from shoal.training.run import Watcher
from tests.runs import new_run, tiny_config, tiny_images

FILE = Path(__file__).with_name("curves.json")
STEPS, N_IMAGES, N_DIRECTIONS = 30, 48, 4

METHODS: Mapping[str, MethodConfig] = {
    "byol": BYOLConfig(hidden=16, dim=8, momentum=0.9),
    "cc": CCConfig(dim=8),
    "emp": EMPConfig(invariance=2.0, hidden=16, dim=8),
    "moco": MoCoConfig(dim=8, queue=40, momentum=0.9),
    "pcl": PCLConfig(dim=8, queue=40, momentum=0.9, granularities=(4, 6)),
    "propos": ProPosConfig(hidden=16, dim=8, momentum=0.9, noise=0.01),
    "simclr": SimCLRConfig(dim=8),
    "simsiam": SimSiamConfig(dim=8, bottleneck=4),
}

TOLERANCE = 1e-4
"""Of a value v, times 1 + |v|. Other instructions (SSE4.1, AVX2, no oneDNN) move a curve by up to 2e-5, a change of 1 %
of a momentum, a rate or a temperature by 1e-3 or more: ``benchmarks/LOG.md``."""

Curves = dict[str, list[float]]
"""Each loss term by step, and ``features``: a few images along a few directions."""


class _Terms(Watcher):
    """Keeps the loss terms of each step."""

    def __init__(self) -> None:
        self.curves: Curves = {}
        self._before: dict[str, float] = {}

    def step(self, run: Run) -> None:
        totals = {name: float(total) for name, total in run.state.totals.items()}
        before = self._before if run.state.step > 1 else {}
        for name, total in totals.items():
            # A term that begins late, with the clusters, is zero before.
            curve = self.curves.setdefault(name, [0.0] * (run.steps_done - 1))
            curve.append(total - before.get(name, 0.0))
        self._before = totals


def config_of(method: MethodConfig) -> RunConfig:
    """Ten epochs of three steps; clusters from the third on, found every second."""
    views = ViewConfig(degrees=10.0, crop_scale=(0.6, 1.0), blur_p=(0.0, 0.0))
    base = tiny_config(method=method, augment=views, cluster_every=2)
    optim = dataclasses.replace(base.optim, lr=1.0) if isinstance(method, CCConfig) else base.optim  # it hardly moves
    return dataclasses.replace(base, epochs=10, cluster_from=2, seed=1, optim=optim)


def curves_of(config: RunConfig, folder: Path) -> Curves:
    """The curves of a run, computed by one thread."""
    terms, threads = _Terms(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = new_run(folder, config, tiny_images(N_IMAGES))
        fit(run, Progress(), [terms])
    finally:
        torch.set_num_threads(threads)
    assert run.steps_done == STEPS
    assert run.features is not None
    directions = np.random.RandomState(0).randn(run.features.shape[1], N_DIRECTIONS)
    digest = run.features[:: N_IMAGES // 8].double().numpy() @ directions
    return {**terms.curves, "features": digest.flatten().tolist()}


def kept() -> dict[str, Curves]:
    """The golden curves by method."""
    found: dict[str, Curves] = json.loads(FILE.read_text())
    return found


def moved(golden: Curves, found: Curves) -> list[str]:
    """What differs by more than the tolerance, a line for each curve."""
    lines = [f"{name}: {'gone' if name in golden else 'new'}" for name in sorted(golden.keys() ^ found.keys())]
    for name in sorted(golden.keys() & found.keys()):
        one, other = np.array(golden[name]), np.array(found[name])
        if one.shape != other.shape:
            lines.append(f"{name}: {len(one)} values are {len(other)} now")
            continue
        off = np.abs(one - other) / (TOLERANCE * (1 + np.abs(one)))
        if off.max() > 1:
            first, worst = int((off > 1).argmax()), int(off.argmax())
            what = "value" if name == "features" else "step"
            told = [f"{what} {i} was {one[i]:.6g} and is {other[i]:.6g}" for i in dict.fromkeys((first, worst))]
            lines.append(f"{name}: {', '.join(told)}, {off[worst]:.0f} times the tolerance")
    return lines


def main() -> None:
    """Say what has moved, and keep it if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true", help="keep the curves of now")
    asked = parser.parse_args()
    golden = kept() if FILE.exists() else {}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, method in METHODS.items():
            found[name] = curves_of(config_of(method), Path(scratch) / name)
            lines = moved(golden.get(name, {}), found[name])
            print("\n".join(f"{name}  {line}" for line in lines or ["as it was"]))
    if asked.renew:
        rounded = {
            name: {term: [float(f"{x:.7g}") for x in xs] for term, xs in each.items()} for name, each in found.items()
        }
        FILE.write_text(json.dumps(rounded, indent=None).replace("}, ", "},\n ").replace("], ", "],\n  ") + "\n")


if __name__ == "__main__":
    main()
