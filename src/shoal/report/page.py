"""One self-contained HTML page that shows what a run found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from shoal.files import atomic_write
from shoal.report.confusion import confusion
from shoal.report.contents import MAX_LISTED, Contents, contents
from shoal.report.curves import panels
from shoal.report.data import ReportData
from shoal.report.evaluated import evaluated

SCRIPTS = tuple(
    f"{name}.js"
    for name in (
        *("dom", "data", "sheets", "store", "grid", "gallery", "cluster", "detail", "map", "loupe", "search"),
        *("selection", "mapinput", "edits", "lists", "training", "start"),
    )
)
"""In the order in which they run: each uses what stands before it, or is called once all are there."""

MAX_SKIPPED = 200

PIXELATED_UP_TO = 20
"""Pixels: an image this small is shown with its pixels as squares, not as a blur."""

AGREEMENT = {
    "acc": ("Accuracy", "clusters matched to classes"),
    "nmi": ("NMI", "shared information, 0 to 1"),
    "ari": ("ARI", "pairs agreed on, 0 by chance"),
}
UNLABELLED = {"silhouette": ("Silhouette", "separation, \u22121 to 1")}


@dataclass(frozen=True)
class Figure:
    """A number of the summary, as text."""

    name: str
    value: str
    meaning: str = ""


def write_report(data: ReportData, path: Path) -> None:
    """Write the page: it opens from disk and asks nothing of the network.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    found = contents(data)
    page = (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=data.title,
            command=data.command,
            config=data.config_yaml,
            summary=_summary(data, found),
            contents=found,
            scripts=SCRIPTS,
            pixelated=max(data.images.pixels.shape[2:]) <= PIXELATED_UP_TO,
            labelled=bool((data.images.targets >= 0).any()),
            mapped=_mapped(data),
            map_method=data.map_method,
            n_images=data.n_images,
            n_duplicates=len(data.duplicates),
            n_outliers=len(data.outliers),
            max_listed=MAX_LISTED,
            panels=panels(data.metrics),
            evaluated=evaluated(data.evaluation),
            confusion=confusion(data.images, data.clustering),
            skipped=list(data.images.skipped.items())[:MAX_SKIPPED],
            n_skipped=len(data.images.skipped),
        )
    )
    # A file name that is not UTF-8 comes with surrogates, which no page can hold.
    atomic_write(path, page.encode("utf-8", "replace"))


def _mapped(data: ReportData) -> bool:
    """Whether an image is on the map."""
    return bool((data.positions.isfinite().all(dim=1) & (data.clustering.labels >= 0)).any())


def _summary(data: ReportData, found: Contents) -> list[Figure]:
    left_out, sizes = data.n_images - int(data.sizes.sum()), data.sizes
    notes = [f"{count(found.n_shown)} of them on this page"] if found.n_shown < data.n_images else []
    notes += [f"{count(left_out)} of them not clustered"] if left_out > 0 else []
    figures = [
        Figure("Images", count(data.n_images), ", ".join(notes)),
        Figure(
            "Clusters",
            count(len(sizes)),
            f"{count(int(sizes.min()))} to {count(int(sizes.max()))} images each" if len(sizes) > 1 else "",
        ),
    ]
    scores = {key: value for row in data.metrics for key, value in row.items() if value is not None}
    agreement = AGREEMENT if (data.images.targets >= 0).any() else {}
    for key, (name, meaning) in {**agreement, **UNLABELLED}.items():
        if key in scores and math.isfinite(scores[key]):
            text = percent(scores[key]) if key == "acc" else f"{scores[key]:.3f}"
            figures.append(Figure(name, text, meaning))
    if data.images.skipped:
        figures.append(Figure("Skipped files", count(len(data.images.skipped)), "could not be read"))
    return figures


def count(n: int) -> str:
    """1797 as 1 797, with a narrow space that does not break."""
    return f"{n:,}".replace(",", "\u202f")


def percent(share: float) -> str:
    """0.9734 as 97.3 %."""
    return f"{100 * share:.1f}\u202f%"


def environment() -> Environment:
    """Where the templates are, which escape what they are given."""
    environment = Environment(
        loader=PackageLoader("shoal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": count, "percent": percent}
    return environment
