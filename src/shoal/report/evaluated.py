"""The figures of ``shoal evaluate`` as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.evaluation.result import Calibration, ClassScore, Evaluation, Ranking
from shoal.evaluation.text import AGREEMENT, comparison

SHARES = {"acc": "Accuracy, one-to-one", "purity": "Purity, many-to-one"}
INDICES = {
    "nmi": "NMI (V-measure)",
    "ami": "AMI",
    "homogeneity": "Homogeneity",
    "completeness": "Completeness",
    "ari": "ARI",
    "fmi": "FMI",
}

HEADS = {"acc": "Accuracy", "purity": "Purity", "nmi": "NMI", "ari": "ARI", AGREEMENT: "Agreement"}

MAX_OPEN = 24
"""Classes up to which their table stands open."""

WIDTH, HEIGHT = 320, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 34


@dataclass(frozen=True)
class Row:
    """A figure, of all images and where there is one of the test part, as text."""

    name: str
    values: Sequence[str]


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
class Plain:
    """The clusters beside plain methods: names of the columns, a row each, and what it means."""

    heads: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]


@dataclass(frozen=True)
class Evaluated:
    """What the section is made of; parts that were not measured are empty."""

    scores: Sequence[Row]
    test_note: str
    probes: Sequence[Row]
    notes: Sequence[str]
    plain: Plain | None
    calibration: Calibration | None
    bars: Sequence[Bar]
    classes: Sequence[ClassScore]
    folded: bool


def evaluated(found: Evaluation | None) -> Evaluated | None:
    """The section's content; None without an evaluation, or where nothing of it needs labels or is compared."""
    if found is None or not (found.scores or found.baselines):
        return None
    split = found.train_to_test
    probes, notes = _probes(found)
    return Evaluated(
        scores=_scores(found) if found.scores else [],
        test_note=f"Test: {split.test} images, put into clusters found in the {split.train} of the train part alone."
        if split
        else "",
        probes=probes,
        notes=notes,
        plain=_plain(found),
        calibration=found.calibration,
        bars=_bars(found.calibration) if found.calibration else [],
        classes=found.classes,
        folded=len(found.classes) > MAX_OPEN,
    )


def _scores(found: Evaluation) -> list[Row]:
    split = found.train_to_test
    parts = [found.scores, split.scores] if split else [found.scores]
    rows = [Row(name, [_percent(part[key]) for part in parts if key in part]) for key, name in SHARES.items()]
    known = {key: name for key, name in INDICES.items() if key in found.scores}  # an older file has fewer
    rows += [Row(name, [f"{part[key]:.3f}" for part in parts if key in part]) for key, name in known.items()]
    if split:
        rows.append(Row("Accuracy, as matched in train", ["", _percent(split.accuracy_matched_on_train)]))
    return rows


def _plain(found: Evaluation) -> Plain | None:
    compared = comparison(found)
    if compared is None:
        return None

    def text(key: str, value: float | None) -> str:
        if value is None:
            return ""
        return _percent(value) if key in SHARES else f"{value:.3f}"

    rows = [Row(row.name, [text(key, row.values.get(key)) for key in compared.keys]) for row in compared.rows]
    return Plain([HEADS[key] for key in compared.keys], rows, compared.notes)


def _probes(found: Evaluation) -> tuple[list[Row], list[str]]:
    """Figures of the backbone's features: right at first guess, and within five; and how they were taken."""
    rows, notes = [], []
    if knn := found.knn:
        rows.append(_ranked(f"{knn.k} nearest neighbours", knn.accuracy))
        among = "all others" if knn.protocol == "leave one out" else f"{knn.bank} train images"
        notes.append(f"Neighbours: each of {knn.queries} images among {among}.")
    if linear := found.linear:
        rows.append(_ranked("Linear probe, SGD", linear.sgd))
        if linear.lars:
            rows.append(_ranked("Linear probe, LARS", linear.lars))
        how = "the test part" if linear.protocol == "test part" else "a random fifth"
        notes.append(f"Probe: trained on {linear.train} images, tested on {how}, {linear.test} images.")
    return rows, notes


def _ranked(name: str, ranking: Ranking) -> Row:
    return Row(name, [_percent(ranking.top1), "" if ranking.top5 is None else _percent(ranking.top5)])


def _bars(calibration: Calibration) -> list[Bar]:
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most = max((b.images for b in calibration.bins), default=1)
    return [
        Bar(
            x=round(LEFT + b.low * across + 1, 1),
            y=round(TOP + (1 - b.accuracy) * down, 1),
            width=round((b.high - b.low) * across - 2, 1),
            height=round(b.accuracy * down, 1),
            weight=round((b.images / most) ** 0.5, 3),
            text=f"confidence {_percent(b.low)} to {_percent(b.high)}: {b.images} images, "
            f"{_percent(b.accuracy)} right, {_percent(b.confidence)} expected",
        )
        for b in calibration.bins
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"
