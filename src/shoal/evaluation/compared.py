"""Clusters beside the plain methods, in words for terminal and report alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shoal.evaluation.result import Baseline, Evaluation

SCORES = ("acc", "purity", "nmi", "ari")

AGREEMENT = "agreement"
"""Key of the last column."""


@dataclass(frozen=True)
class Line:
    """Figures of a method by key; some may be missing."""

    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A row for the clusters and one for each plain method, the keys of the columns, and what it means."""

    keys: Sequence[str]
    rows: Sequence[Line]
    notes: Sequence[str]


def comparison(found: Evaluation) -> Comparison | None:
    """The table; None where nothing was compared."""
    if not found.baselines:
        return None
    own = {key: found.scores[key] for key in SCORES if key in found.scores}
    return Comparison(
        keys=[*own, AGREEMENT],
        rows=[Line("These clusters", own), *map(_line, found.baselines)],
        notes=list(_notes(found)),
    )


def _line(plain: Baseline) -> Line:
    scores = {key: plain.scores[key] for key in SCORES if key in plain.scores}
    agreement = {} if plain.agreement is None else {AGREEMENT: plain.agreement}
    return Line(f"{_name(plain)} *" if plain.sampled else _name(plain), scores | agreement)


def _name(plain: Baseline) -> str:
    if (plain.of, plain.method) == ("features", "k-means"):
        return "The same k-means, other seeds"  # as the clusters are
    on = {"features": "the features", "backbone": "the backbone", "pixels": "pixels"}
    return f"{plain.method} on {on[plain.of]}"


def _notes(found: Evaluation) -> Iterator[str]:
    on_pixels = any(plain.of == "pixels" for plain in found.baselines)
    for size in {plain.sampled for plain in found.baselines if plain.sampled}:
        yield f"* on {size} images drawn at random."
    for plain in found.baselines:
        if plain.failed:
            yield f"{_name(plain)}: {plain.failed}"
    yield "Agreement: ARI with these clusters, 1 for the same ones, 0 by chance."
    if found.scores:
        training = ", and training where it is ahead of those on pixels" if on_pixels else ""
        yield f"A method earns its keep where it is ahead of the plain methods on the same features{training}."
    else:
        yield "Where plain methods on the same features agree little, much is chance: try another number of clusters."
        if on_pixels:
            yield "Where those on pixels agree much, training has found little that pixels do not show."
