"""Training curves as small multiples, in SVG coordinates (training.html.jinja)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Number = float | int
Row = Mapping[str, Number | None]

WIDTH, HEIGHT = 320, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 28

SCORES = {
    "Agreement with the labels": ("acc", "nmi", "ari", "fmi"),
    "Silhouette": ("silhouette",),
    "Images that changed cluster": ("changed",),
    "Cluster sizes": ("largest", "smallest"),
    "Spread of features": ("feature_std",),
    "Learning rate": ("lr",),
}
NOT_A_TERM = {
    "epoch",
    "steps",
    "seconds",
    "images_per_second",
    "e_step_seconds",
    "loss",
    "clusters",
    *(key for keys in SCORES.values() for key in keys),
}


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: Number
    text: str


@dataclass(frozen=True)
class Line:
    """One quantity: its points in SVG coordinates, and its values (epoch, value)."""

    name: str
    points: str
    values: Sequence[tuple[Number, Number]]
    end: tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """One small plot over epochs."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    first: Number
    last: Number


def panels(rows: Sequence[Row]) -> list[Panel]:
    """A panel for the loss, each of its terms and each group of scores that has at least two values."""
    found = (panel(title, rows, keys) for title, keys in _groups(rows))
    return [each for each in found if each is not None]


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, tuple[str, ...]]]:
    terms = dict.fromkeys(key for row in rows for key in row if key not in NOT_A_TERM)
    if len(terms) != 1:
        yield "Loss", ("loss",)
    for term in terms:
        yield f"Loss: {term}", (term,)
    yield from SCORES.items()


def panel(title: str, rows: Sequence[Row], keys: Sequence[str]) -> Panel | None:
    """A panel with a line for each key that has at least two values; None where none has."""
    series = {key: values for key in keys if len(values := _values(rows, key)) > 1}
    if not series:
        return None
    epochs = [epoch for row in rows if (epoch := row.get("epoch")) is not None]
    x_places = ticks(min(epochs), max(epochs), whole=True)
    heights = [value for values in series.values() for _, value in values]
    y_places = ticks(min(heights), max(heights))
    x = Scale(min(epochs), max(epochs), LEFT, WIDTH - RIGHT)
    y = Scale(min(*y_places, *heights), max(*y_places, *heights), HEIGHT - BOTTOM, TOP)
    return Panel(
        title=title,
        lines=[_line(name, values, x, y) for name, values in series.items()],
        x_ticks=[Tick(x(value), f"{value:g}") for value in x_places],
        y_ticks=[Tick(y(value), f"{value:g}") for value in y_places],
        first=min(epochs),
        last=max(epochs),
    )


def _values(rows: Sequence[Row], key: str) -> list[tuple[Number, Number]]:
    pairs = ((row.get("epoch"), row.get(key)) for row in rows)
    finite = [(e, v) for e, v in pairs if e is not None and v is not None and math.isfinite(v)]
    # A resumed run may write an epoch twice; the later row counts.
    return sorted({_short(epoch): _short(value) for epoch, value in finite}.items())


def _short(value: Number) -> Number:
    """Four significant digits, or all digits of an integer."""
    return int(value) if value == int(value) else float(f"{value:.4g}")


def _line(name: str, values: Sequence[tuple[Number, Number]], x: Scale, y: Scale) -> Line:
    points = [(x(epoch), y(value)) for epoch, value in values]
    return Line(name, " ".join(f"{px:g},{py:g}" for px, py in points), values, points[-1])


@dataclass(frozen=True)
class Scale:
    """Linear scale from [low, high] to [start, end] in pixels; if low = high, the middle."""

    low: Number
    high: Number
    start: Number
    end: Number

    def __call__(self, value: Number) -> float:
        """Position of a value, to a tenth of a pixel."""
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + part * (self.end - self.start), 1)


def ticks(low: Number, high: Number, *, whole: bool = False) -> list[Number]:
    """Three to six round numbers that span [low, high]; ``whole`` ones are integers inside it."""
    if high == low:
        return [low]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    if whole:
        step = max(1.0, step)
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]
