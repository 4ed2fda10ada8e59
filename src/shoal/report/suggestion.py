"""The page of ``shoal cluster -k auto``: how good each number of clusters is (suggestion.html.jinja)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.clustering.suggest.suggest import Candidate, Suggestion
from shoal.files import atomic_write
from shoal.report.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, Tick, ticks
from shoal.report.page import Figure, count, environment

MARGIN = 4
"""Pixels by which the band exceeds the interval on both sides, so that an interval of one k is visible."""

CURVES: Sequence[tuple[str, str, Callable[[Candidate], float | None]]] = (
    ("Depth", "shallowest valley between k groups, in standard errors: 4 separate", lambda c: c.depth),
    ("Stability", "agreement of the clusters of two halves, 1 is the same", lambda c: c.stability),
)


@dataclass(frozen=True)
class Mark:
    """A candidate in a plot: position, tooltip, and whether it is the best k."""

    x: float
    y: float
    text: str
    best: bool


@dataclass(frozen=True)
class Curve:
    """One criterion against k on a logarithmic axis; ``value`` is that of the best k, a dash if it has none."""

    title: str
    meaning: str
    value: str
    marks: Sequence[Mark]
    points: str
    y_ticks: Sequence[Tick]


@dataclass(frozen=True)
class Axis:
    """The axis that all curves share: ticks, the best k, and the band of the plausible interval."""

    x_ticks: Sequence[Tick]
    best: float
    left: float
    width: float


def write_suggestion(suggestion: Suggestion, title: str, path: Path) -> None:
    """Write the page; it is self-contained and makes no network requests.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    template = environment().get_template("suggestion.html.jinja")
    page = template.render(
        title=title,
        suggestion=suggestion,
        summary=_summary(suggestion),
        axis=axis(suggestion),
        curves=[each for each in (curve(suggestion, *of) for of in CURVES) if each.marks],
    )
    atomic_write(path, page.encode("utf-8", "replace"))


def axis(suggestion: Suggestion) -> Axis:
    """The logarithmic axis of k."""
    x = _across(suggestion)
    tried = [c.k for c in suggestion.candidates]
    round_numbers = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    shown = [k for k in round_numbers if min(tried) <= k <= max(tried)]
    if len(shown) < 2:
        shown = sorted({min(tried), max(tried)})
    left, right = (x(math.log(k)) for k in suggestion.interval)
    return Axis(
        [Tick(x(math.log(k)), str(k)) for k in shown],
        x(math.log(suggestion.k)),
        round(left - MARGIN, 1),
        round(right - left + 2 * MARGIN, 1),
    )


def curve(suggestion: Suggestion, title: str, meaning: str, figure: Callable[[Candidate], float | None]) -> Curve:
    """One criterion of every candidate that has it, in order of k."""
    x = _across(suggestion)
    known = [(c.k, value) for c in suggestion.candidates if (value := figure(c)) is not None]
    places = ticks(min((value for _, value in known), default=0), max((value for _, value in known), default=0))
    values = [*places, *(value for _, value in known)]
    y = Scale(min(values), max(values), HEIGHT - BOTTOM, TOP)
    marks = [Mark(x(math.log(k)), y(value), f"k = {k}: {value:.2f}", k == suggestion.k) for k, value in sorted(known)]
    own = figure(suggestion.best)
    return Curve(
        title,
        meaning,
        "–" if own is None else f"{own:.2f}",
        marks,
        " ".join(f"{mark.x:g},{mark.y:g}" for mark in marks),
        [Tick(y(value), f"{value:g}") for value in places],
    )


def _across(suggestion: Suggestion) -> Scale:
    tried = [c.k for c in suggestion.candidates]
    return Scale(math.log(min(tried)), math.log(max(tried)), LEFT + 2 * MARGIN, WIDTH - RIGHT - MARGIN)


def _summary(suggestion: Suggestion) -> list[Figure]:
    low, high = suggestion.interval
    clear = "the number hardly depends on how groups are told apart"
    unclear = "no single number stands out" if suggestion.k > 1 else "no valleys separate groups"
    return [
        Figure("Best k", str(suggestion.k), "clusters"),
        Figure("Plausible", str(low) if low == high else f"{low} to {high}", "range worth trying"),
        Figure("Structure", "clear" if suggestion.clear else "unclear", clear if suggestion.clear else unclear),
        Figure("Rows", count(suggestion.n_rows), f"analysed, {suggestion.metric} distances"),
    ]
