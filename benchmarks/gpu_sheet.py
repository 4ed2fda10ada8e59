"""What the parts of the GPU sheet share: how large they are, where their figures go, and what the device can do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kmeans import Case
from shoal.config import RunConfig
from shoal.files import atomic_write
from shoal.models import build_backbone

Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    batch: int = 512
    side: int = 32
    hidden: int = 4096
    """Width of the heads' hidden layer, as in the recipe."""
    backbones: tuple[str, str] = ("resnet18", "resnet34")
    compiler: str = "inductor"
    """What compiles the backbones."""
    warm_up: int = 8
    """Steps that are not timed; a CUDA graph is recorded in the second of them."""
    steps: int = 8
    """Steps that are timed as one, so that the host can run ahead of the device as it does in training."""
    repeats: int = 5
    matrices: tuple[int, ...] = (4096, 8192, 16384)
    copied: int = 2**30
    """Bytes of the copy that tells the bandwidth."""
    views: tuple[tuple[int, int, float], ...] = ((32, 512, 0.0), (224, 256, 0.5))
    """Side, batch and probability of the blur of what is augmented."""
    embedded: int = 60_000
    embedding: tuple[int, ...] = (341, 512, 1024, 2048, 4096, 8192)
    """Images of a batch; an E-step takes the first at 32 px."""
    clustered: tuple[Case, ...] = tuple(Case(60_000, 256, k, 10, 300, 0) for k in (10, 100, 1000))
    clustered_large: tuple[Case, ...] = tuple(Case(1_280_000, 256, k, 1, 100, 0) for k in (10, 100, 1000))


TINY = Sizes(
    batch=8,
    side=8,
    hidden=32,
    backbones=("small", "small"),
    compiler="aot_eager",
    warm_up=2,
    steps=1,
    repeats=1,
    matrices=(64, 128),
    copied=2**16,
    views=((8, 4, 0.0), (32, 2, 0.5)),
    embedded=200,
    embedding=(64, 128),
    clustered=(Case(400, 8, 3, 2, 10, 0),),
    clustered_large=(Case(2000, 8, 5, 1, 5, 0),),
)


@dataclass(frozen=True)
class Sheet:
    """What a part is given: sizes, the device, what it can do at most, and a file for what is found."""

    sizes: Sizes
    device: torch.device
    file: Path
    peaks: Mapping[str, float] = field(default_factory=dict)
    """FLOP per second of products by arithmetic, and bytes per second of a ``copy``; empty if they are not known."""

    def keep(self, figures: Figures) -> None:
        """Write what the part has found so far."""
        atomic_write(self.file, json.dumps(figures).encode())

    def share(self, rate: float, peak: str) -> float | None:
        """What part of a peak a rate is."""
        return rate / self.peaks[peak] if self.peaks else None

    def seconds(self, function: Callable[[], object], each: int, rounds: int) -> float:
        """Least seconds of a call, of rounds of ``each`` calls in a row, after one that warms up."""
        function()
        found = []
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            for _ in range(each):
                function()
            self.wait()
            found.append((time.perf_counter() - start) / each)
        return min(found)

    def wait(self) -> None:
        """Let the device finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def forward_flops(config: RunConfig, side: int) -> int:
    """FLOPs of the backbone's products for one image, forward."""
    backbone = build_backbone(config.backbone).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


def percent(share: float | None) -> str:
    """A share for a table."""
    return "      -" if share is None else f"{100 * share:5.1f} %"


def in_a_line(error: BaseException) -> str:
    """Why something failed."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def float32_products(sheet: Sheet, of: str) -> str:
    """The peak that bounds float32 products as torch is set: TF32 is its default in convolutions, not in ``matmul``."""
    if sheet.device.type != "cuda":
        return "float32"
    allowed = torch.backends.cudnn.allow_tf32 if of == "convolutions" else torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allowed else "float32"
