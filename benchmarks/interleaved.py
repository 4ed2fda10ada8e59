"""Timing sides in turn, for the speed of a machine drifts: what is compared is measured side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def seconds_of(
    sides: Mapping[str, Callable[[], object]], repeats: int, device: torch.device | None = None
) -> dict[str, float]:
    """Median seconds of a call of each side, all of them called in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            start = _now(device)
            side()
            found[name].append(_now(device) - start)
    return {name: statistics.median(each[1:]) for name, each in found.items()}


def _now(device: torch.device | None) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
