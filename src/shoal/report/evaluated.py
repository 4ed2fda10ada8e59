"""The section of the page that shows what ``shoal evaluate`` measured (evaluation.html.jinja)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.evaluation.result import CalibrationResult, ClassScore, Evaluation
from shoal.evaluation.tables import Cell, Share, Table, tables

MAX_OPEN = 24
"""Classes up to which their table is open."""

WIDTH, HEIGHT = 320, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 34


@dataclass(frozen=True)
class Bar:
    """A bin of the reliability diagram in SVG coordinates; ``weight`` is its images relative to the fullest bin's."""

    x: float
    y: float
    width: float
    height: float
    weight: float
    text: str


@dataclass(frozen=True)
class Evaluated:
    """Contents of the section; what was not measured is empty or None."""

    labelled: bool
    tables: Sequence[Table]
    calibration: CalibrationResult | None
    bars: Sequence[Bar]
    classes: Sequence[ClassScore]
    folded: bool


def evaluated(found: Evaluation | None) -> Evaluated | None:
    """The contents of the section; None without an evaluation."""
    if found is None:
        return None
    return Evaluated(
        labelled=bool(found.scores),
        tables=tables(found),
        calibration=found.calibration,
        bars=_bars(found.calibration) if found.calibration else [],
        classes=found.classes,
        folded=len(found.classes) > MAX_OPEN,
    )


def figure(value: Cell) -> str:
    """A cell of a table as text."""
    if value is None or isinstance(value, str):
        return value or ""
    return percent(value) if isinstance(value, Share) else f"{value:.3f}".replace("-", "−")


def percent(share: float) -> str:
    """0.9734 as 97.3 %."""
    return f"{100 * share:.1f}\u202f%"


def _bars(calibration: CalibrationResult) -> list[Bar]:
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most = max((b.images for b in calibration.bins), default=1)
    return [
        Bar(
            x=round(LEFT + b.low * across + 1, 1),
            y=round(TOP + (1 - b.accuracy) * down, 1),
            width=round((b.high - b.low) * across - 2, 1),
            height=round(b.accuracy * down, 1),
            weight=round((b.images / most) ** 0.5, 3),
            text=f"confidence {percent(b.low)} to {percent(b.high)}: {b.images} images, "
            f"{percent(b.accuracy)} correct, {percent(b.confidence)} expected",
        )
        for b in calibration.bins
    ]
