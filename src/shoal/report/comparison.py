"""The page of ``shoal compare``: tables of several results, and their curves (comparison.html.jinja)."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.evaluation.tables import Table
from shoal.files import atomic_write
from shoal.report.curves import SCORES, Panel, Row, panel
from shoal.report.page import environment

MAX_LINES = 10
"""Variants whose curves are drawn: more cannot be told apart."""

NAMES = {
    "loss": "Loss",
    "acc": "ACC",
    "nmi": "NMI",
    "ari": "ARI",
    "largest": "Largest cluster",
    "smallest": "Smallest cluster",
}
TITLES = {**{keys[0]: title for title, keys in SCORES.items() if len(keys) == 1}, **NAMES}
ORDER = ("acc", "nmi", "ari", "loss", "silhouette", "changed", "largest", "feature_std", "lr")


@dataclass(frozen=True)
class Curves:
    """A variant and the rows of metrics.jsonl of its runs."""

    label: str
    runs: Sequence[Sequence[Row]]


def write_comparison(title: str, tables: Sequence[Table], curves: Sequence[Curves], path: Path) -> None:
    """Write the page; it is self-contained and makes no network requests.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    trained = [each for each in curves if any(each.runs)]
    panels = comparison_panels(trained[:MAX_LINES])
    lines = {line.name for panel in panels for line in panel.lines}
    template = environment().get_template("comparison.html.jinja")
    page = template.render(
        title=title,
        tables=tables,
        panels=panels,
        n_left_out=max(0, len(trained) - MAX_LINES),
        short=[each.label for each in trained[:MAX_LINES] if each.label not in lines],
        scripts=("training.js",),
    )
    atomic_write(path, page.encode("utf-8", "replace"))


def comparison_panels(curves: Sequence[Curves]) -> list[Panel]:
    """A panel for each quantity, with the mean over seeds of each variant as a line."""
    found = (panel(TITLES[key], _means(curves, key), [each.label for each in curves]) for key in ORDER)
    return [each for each in found if each is not None]


def _means(curves: Sequence[Curves], key: str) -> list[Row]:
    """A row per epoch of any run, with the mean of a quantity by variant, so that all panels share their axis."""
    rows: dict[float, dict[str, float]] = defaultdict(dict)
    for each in curves:
        values: dict[float, list[float]] = defaultdict(list)
        for row in (row for run in each.runs for row in run):
            epoch, value = row.get("epoch"), row.get(key)
            if epoch is not None:
                rows[epoch]["epoch"] = epoch
                values[epoch] += [] if value is None else [value]
        for epoch, found in values.items():
            if found:
                rows[epoch][each.label] = statistics.fmean(found)
    return [rows[epoch] for epoch in sorted(rows)]
