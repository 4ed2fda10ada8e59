"""One self-contained HTML page that shows what a run found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from shoal.evaluation import Evaluation
from shoal.files import atomic_write
from shoal.report.confusion import confusion
from shoal.report.curves import panels
from shoal.report.evaluated import evaluated
from shoal.report.galleries import Gallery, Plan
from shoal.report.scatter import scatter
from shoal.types import Clustering, Images

MAX_SKIPPED = 200

PIXELATED_UP_TO = 20
"""Pixels: an image this small is shown with its pixels as squares, not as a blur."""

AGREEMENT = {
    "acc": ("Accuracy", "clusters matched to classes"),
    "nmi": ("NMI", "shared information, 0 to 1"),
    "ari": ("ARI", "pairs agreed on, 0 by chance"),
}
UNLABELLED = {"silhouette": ("Silhouette", "separation, \u22121 to 1")}


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a report shows, all of it on the CPU.

    ``command`` is what reproduces the run, ``metrics`` are the rows of metrics.jsonl, ``margins`` say how
    much farther than the own the second centre is (small: a doubtful image), and ``seed`` draws the map.
    ``evaluation`` is there once ``shoal evaluate`` has measured the run.
    """

    title: str
    command: str
    config_yaml: str
    metrics: Sequence[Mapping[str, float | int | None]]
    images: Images
    features: Float[Tensor, "n d"]
    clustering: Clustering
    margins: Float[Tensor, "n"]
    seed: int
    evaluation: Evaluation | None = None


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
    gallery = Gallery(data.images, data.clustering, data.margins)
    pages = gallery.pages()
    generator = torch.Generator().manual_seed(data.seed)
    page = (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=data.title,
            command=data.command,
            config=data.config_yaml,
            summary=_summary(data),
            pages=pages,
            cards=[card for cards in pages for card in cards],
            lead=Plan.of(len(data.clustering.centers)).lead,
            pixelated=max(data.images.pixels.shape[2:]) <= PIXELATED_UP_TO,
            labelled=bool((data.images.labels >= 0).any()),
            scatter=scatter(gallery, data.features, generator),
            panels=panels(data.metrics),
            evaluated=evaluated(data.evaluation),
            confusion=confusion(data.images, data.clustering),
            skipped=list(data.images.skipped.items())[:MAX_SKIPPED],
            n_skipped=len(data.images.skipped),
        )
    )
    # A file name that is not UTF-8 comes with surrogates, which no page can hold.
    atomic_write(path, page.encode("utf-8", "replace"))


def _summary(data: ReportData) -> list[Figure]:
    labels = data.clustering.labels
    sizes = torch.bincount(labels[labels >= 0], minlength=len(data.clustering.centers))
    left_out = int((labels < 0).sum())
    figures = [
        Figure("Images", count(len(labels)), f"{count(left_out)} of them not clustered" if left_out else ""),
        Figure(
            "Clusters",
            count(len(sizes)),
            f"{count(int(sizes.min()))} to {count(int(sizes.max()))} images each",
        ),
    ]
    scores = {key: value for row in data.metrics for key, value in row.items() if value is not None}
    agreement = AGREEMENT if (data.images.labels >= 0).any() else {}
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
    )
    environment.filters |= {"count": count, "percent": percent}
    return environment
