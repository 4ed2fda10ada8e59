"""Samples of more than 8 bits: which of their values are black and white, and which are not data.

A camera of 12 bits stores its values in 16: shown on the scale of 16 bits, its images are nearly black. So the range
that becomes black to white is the one that the file states, else one for all images of a source, so that brightness
still means something between images (``Scale``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt8
from numpy.typing import NDArray

from shoal.errors import UserError

Range: TypeAlias = tuple[float, float]
"""Values that become black and white."""

Ranges: TypeAlias = Mapping[str, Range]
"""The range of each type of number, by NumPy's name of it; that of ``ANY`` holds for all."""

ANY = "any"

BEFORE: Ranges = {"uint16": (0.0, 65535.0)}
"""Of results that were written before ranges were kept."""

_STRIP = 2**18  # samples that are scaled at a time
_HISTOGRAM = 2**16  # numbers of up to 16 bits are counted exactly
_SAMPLED = 2**18  # other numbers of an image that are looked at
_FEW = 10_000
"""Extreme values are ignored when rarer than one in this many, and stretch the range to more than its double."""
_CLIPPED = 1000
"""An image is said to be clipped if more than one in this many of its values lie beyond its range."""

_USUAL = (1.0, 255.0, 65535.0)  # white, in images of fractions
_CONTRAST = 4  # a usual range is taken if the values span at least a fourth of it

_HUGE = 1e30
"""Fractions beyond are fill values: -3.4e38 (float32's lowest), 9.97e36 (netCDF)."""
_FILL = (-9999.0, -99999.0, -32768.0, -32767.0)
"""Usual fill values; they count as such if they lie apart from all other values."""


@dataclass(frozen=True, eq=False)
class Samples:
    """An image as its file stores it, of more than 8 bits or signed.

    ``stated`` is the range by the file's own tags. Pixels without data have value 0, or the end of the range nearest to
    it. ``alpha`` is not premultiplied. With ``negative``, small values are bright.
    """

    values: Shaped[np.ndarray, "h w *rgb"]
    stated: Range | None = None
    alpha: UInt8[np.ndarray, "h w"] | None = None
    missing: Bool[np.ndarray, "h w *rgb"] | None = None
    negative: bool = False

    @property
    def kind(self) -> str:
        """Type of the numbers, whatever their byte order."""
        return self.values.dtype.name


@dataclass(eq=False)
class Extremes:
    """The smallest and largest values of some images, and how often those of up to 16 bits occur."""

    _counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _spans: dict[str, Range] = field(default_factory=dict)
    _lock: Any = field(default_factory=Lock)

    def add(self, samples: Samples) -> None:
        """Take an image into account; threads may do so in any order, with the same outcome."""
        kind, values = samples.kind, samples.values
        if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
            least = int(np.iinfo(values.dtype).min)
            counts = np.zeros(_HISTOGRAM, np.int64)
            for strip, missing in _strips_of(values, samples.missing):
                shown = strip.ravel() if missing is None else strip[~missing]
                counts += np.bincount(shown.astype(np.int64) - least, minlength=_HISTOGRAM)
            with self._lock:
                self._counts[kind] = self._counts.get(kind, 0) + counts
            return
        span = _span_of_sample(values, samples.missing)
        if span is not None:
            with self._lock:
                low, high = self._spans.get(kind, span)
                self._spans[kind] = min(low, span[0]), max(high, span[1])

    def ranges(self) -> dict[str, Range]:
        """The range of each type of number that was seen."""
        found: dict[str, Range] = {}
        for kind, counts in self._counts.items():
            least = int(np.iinfo(kind).min)
            if counts.any():
                found[kind] = fitting_range(kind, *_span_of_counts(counts, least))
        return found | {kind: fitting_range(kind, *span) for kind, span in self._spans.items()}


class Scale:
    """Which range becomes black to white: one for all images of a source that do not state their own.

    Args:
        ranges: those that are known.
        measure: looks at all images of the source; without it, each image has its own range.
    """

    def __init__(self, ranges: Ranges | None = None, measure: Callable[[], Ranges] | None = None) -> None:
        self._known = dict(ranges or {})
        self._measure = measure
        self._lock = Lock()

    @property
    def ranges(self) -> dict[str, Range]:
        """What is known by now: enough for other images to be scaled like these."""
        return dict(self._known)

    def settle(self, kind: str) -> None:
        """Measure the source, once, unless the range of this type of number is known.

        To be called before an image is decoded: measuring waits for memory that images in decoding hold.
        """
        if ANY in self._known or kind in self._known or self._measure is None:
            return
        with self._lock:  # other threads wait, and find it measured
            if self._measure is not None:
                self._known = {**self._measure(), **self._known}
                self._measure = None

    def range_of(self, samples: Samples) -> Range:
        """Return the range of an image."""
        if ANY in self._known:
            return self._known[ANY]
        return samples.stated or self._known.get(samples.kind) or own_range(samples)


def chosen_ranges(ends: Range | None) -> dict[str, Range]:
    """Return the ranges where a user has chosen one for all types of numbers (None: has not).

    Raises:
        UserError: its ends are not two finite numbers in ascending order.
    """
    if ends is None:
        return {}
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
        raise UserError(f"--data.range {ends[0]:g} {ends[1]:g} must be two numbers, the smaller one first.")
    return {ANY: (float(ends[0]), float(ends[1]))}


def own_range(samples: Samples) -> Range:
    """Return the range of one image by its values."""
    extremes = Extremes()
    extremes.add(samples)
    return extremes.ranges().get(samples.kind, (0.0, 1.0))


def fitting_range(kind: str, low: float, high: float) -> Range:
    """Return what becomes black and white where values of a type lie between ``low`` and ``high``.

    Whole numbers get the full range of the bits that they need, up to 16, so 12 bits in 16 become 0 to 4095; fractions
    the smallest of 0 to 1, 255 and 65 535 that holds them. Where the values span less than a fourth of that, or are
    negative, their own extremes are taken.
    """
    tops = _USUAL if kind.startswith("float") else tuple(float(2**bits - 1) for bits in range(1, 17))
    top = next((top for top in tops if high <= top), None)
    if low >= 0 and top is not None and _CONTRAST * (high - low) >= top:
        return 0.0, top
    if low == high:  # one value only: as dark or bright as it is among the usual ones
        return (0.0, next((t for t in (*_USUAL, high) if high <= t), high)) if low >= 0 else (low, 0.0)
    return low, high


def describe(ranges: Ranges) -> str:
    """Say in a line what becomes black to white; "" where no image needed it."""
    told = {kind: ends for kind, ends in ranges.items() if kind == ANY or not kind.startswith("float") or ends[1] != 1}
    each = [f"{low:g} to {high:g}{'' if kind == ANY else f' of {kind}'}" for kind, (low, high) in sorted(told.items())]
    return f"{', '.join(each)} {'is' if len(each) == 1 else 'are'} shown as black to white" if each else ""


def full_range(dtype: np.dtype[Any], bits: int = 0) -> Range:
    """Return the range of a type of whole numbers of which ``bits`` are used (0: all)."""
    bits = bits or 8 * dtype.itemsize
    return (0.0, float(2**bits - 1)) if dtype.kind == "u" else (-float(2 ** (bits - 1)), float(2 ** (bits - 1) - 1))


def find_missing(
    values: Shaped[np.ndarray, "h w *rgb"], stated: float | None = None
) -> Bool[np.ndarray, "h w *rgb"] | None:
    """Mark pixels without data: NaN, infinity, what the file states, and usual fill values far from all others."""
    missing: NDArray[np.bool_] | None = None
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            missing = ~(np.abs(values) < (_HUGE if values.dtype.itemsize > 2 else np.inf))
    if stated is not None and np.isfinite(stated):
        same = values == np.asarray(stated).astype(np.float32 if values.dtype == np.float32 else np.float64)
        missing = same if missing is None else missing | same
    if values.dtype.kind in "if" and values.dtype.itemsize > 1:
        shown = values if missing is None or not missing.any() else values[~missing]
        least = shown.min() if shown.size else None
        if least is not None and float(least) in _FILL:
            others = shown[shown > least]
            if others.size and float(others.min()) - float(least) > float(others.max()) - float(others.min()):
                same = values == least
                missing = same if missing is None else missing | same
    return missing if missing is not None and missing.any() else None


def to_8_bits(samples: Samples, ends: Range) -> UInt8[np.ndarray, "h w *rgb"]:
    """Scale samples so that the ends of the range are 0 and 255; values beyond are clipped."""
    low, high = ends
    out = np.empty(samples.values.shape, np.uint8)
    at = 0
    for strip, missing in _strips_of(samples.values, samples.missing):
        scaled = _finite(strip, missing)
        scaled -= low
        scaled *= 255 / max(high - low, 1e-300)
        np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled)
        out[at : at + len(strip)] = scaled
        at += len(strip)
    return 255 - out if samples.negative else out


CLIPPED = "clipped"
"""How ``clipping_note`` begins."""


def clipping_note(samples: Samples, scale: Scale) -> str:
    """Say that many values of an image lie beyond the range of its source; "" if not, or if the range was chosen.

    So it is with images that come later, of another camera or exposure, than those the range was measured on.
    """
    ranges = scale.ranges
    if ANY in ranges or samples.stated is not None or samples.kind not in ranges:
        return ""
    low, high = ranges[samples.kind]
    beyond = n = 0
    least, most = np.inf, -np.inf
    for strip, missing in _strips_of(samples.values, samples.missing):
        shown = strip if missing is None else strip[~missing]
        if shown.size:
            least, most = min(least, float(shown.min())), max(most, float(shown.max()))
            n += shown.size
            if least < low or most > high:
                beyond += int(np.count_nonzero((shown < low) | (shown > high)))
    if beyond * _CLIPPED <= n:
        return ""
    return f"{CLIPPED}: its values are {least:g} to {most:g}, and {low:g} to {high:g} are shown as black to white"


def _finite(strip: NDArray[Any], missing: NDArray[np.bool_] | None) -> Float64[np.ndarray, "..."]:
    """Copy as float64, with 0 where there is no data."""
    copy = strip.astype(np.float64)
    if missing is not None:
        copy[missing] = 0
    return copy


def _strips_of(
    values: Shaped[np.ndarray, "h w *rgb"], missing: NDArray[np.bool_] | None
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """Iterate over blocks of rows, to save memory."""
    rows = max(1, _STRIP // max(values[0].size, 1))
    for start in range(0, len(values), rows):
        end = start + rows
        yield values[start:end], None if missing is None else missing[start:end]


def _span_of_counts(counts: NDArray[np.int64], least: int) -> Range:
    """Return the smallest and largest value of a histogram, without a few that lie far outside."""
    there = np.flatnonzero(counts)
    low, high = int(there[0]), int(there[-1])
    total = counts.cumsum()
    few = int(total[-1]) // _FEW
    inner_low = int(np.searchsorted(total, few, side="right"))
    inner_high = int(np.searchsorted(total, total[-1] - few, side="left"))
    if high - low > 2 * (inner_high - inner_low) > 0:
        low, high = inner_low, inner_high
    return float(low + least), float(high + least)


def _span_of_sample(values: NDArray[Any], missing: NDArray[np.bool_] | None) -> Range | None:
    """Return the smallest and largest value of an image, without a few that lie far outside; None: it has no data."""
    shown = values.ravel() if missing is None else values[~missing]
    if not shown.size:
        return None
    low, high = float(shown.min()), float(shown.max())
    some = shown[:: -(-shown.size // _SAMPLED)]
    few = some.size // _FEW
    if few:
        inner = np.partition(some, (few, some.size - 1 - few))
        inner_low, inner_high = float(inner[few]), float(inner[some.size - 1 - few])
        if high - low > 2 * (inner_high - inner_low) > 0:
            return inner_low, inner_high
    return low, high
