"""Timing sides in turn, for the speed of a machine drifts: what is compared is measured side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch

from shoal.training.profile import finished

CPU = torch.device("cpu")


def seconds_of(sides: Mapping[str, Callable[[], object]], repeats: int, device: torch.device = CPU) -> dict[str, float]:
    """Median seconds of a call of each side, all of them called in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            start = finished(device)
            side()
            found[name].append(finished(device) - start)
    return {name: statistics.median(each[1:]) for name, each in found.items()}
