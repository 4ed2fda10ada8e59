"""The report of a clustering: one self-contained HTML page, from the templates and scripts in ``templates/``.

Static sections are Jinja templates, filled here; everything with images is drawn in the browser, from the JSON that
``contents`` makes.

| section | template | script | data |
|---|---|---|---|
| summary, navigation, command | page.html.jinja | | ``_summary`` |
| search, edits, export | tools.html.jinja | search.js, edits.js, store.js (state) | |
| cards of the clusters | clusters.html.jinja | cards.js | ``contents`` |
| dialog of a cluster, of an image | dialogs.html.jinja | cluster.js, detail.js | ``contents`` |
| map | map.html.jinja | map.js, dots.js, mapinput.js, loupe.js (preview, legend) | ``contents`` |
| selection | selection.html.jinja | selection.js | |
| duplicates, outliers | lists.html.jinja | lists.js | ``contents`` |
| confusion | confusion.html.jinja | | ``confusion`` |
| evaluation | evaluation.html.jinja | | ``evaluated`` |
| training curves | training.html.jinja | training.js | ``curves`` |

Scripts share dom.js (elements, dialogs), data.js (decoded JSON), sheets.js (thumbnails), picture.js (canvases of them),
grid.js (pages) and swatch.js. The page of ``shoal review`` includes the style sheets, the map, dom.js, picture.js,
grid.js and swatch.js too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from torch import Tensor

from shoal.clustering.density import in_series
from shoal.evaluation.tables import Best
from shoal.files import atomic_file
from shoal.report.confusion import confusion
from shoal.report.contents import Contents, contents
from shoal.report.curves import panels
from shoal.report.data import ReportData
from shoal.report.evaluated import evaluated, figure, percent

SCRIPTS = tuple(
    f"{name}.js"
    for name in (
        *("dom", "data", "sheets", "picture", "store", "grid", "swatch", "cards", "cluster", "detail", "map", "dots"),
        *("loupe", "search", "selection", "mapinput", "edits", "lists", "training", "start"),
    )
)
"""In the order in which they run; each uses those before it."""

MAX_SKIPPED = 200

PIXELATED_UP_TO = 20
"""Image size in pixels up to which pixels are shown as squares instead of being blurred."""

AGREEMENT = {
    "acc": ("Accuracy", "best one-to-one matching"),
    "nmi": ("NMI", "normalised mutual information"),
    "ari": ("ARI", "adjusted Rand index"),
}
UNLABELLED = {"silhouette": ("Silhouette", "separation, −1 to 1")}


@dataclass(frozen=True)
class Figure:
    """A number of the summary, as text."""

    name: str
    value: str
    meaning: str = ""


def write_report(data: ReportData, path: Path) -> None:
    """Write the page; it is self-contained and makes no network requests.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    found = contents(data)
    pieces = (
        environment()
        .get_template("page.html.jinja")
        .generate(
            title=data.title,
            command=data.command,
            layers=[*data.layers.values()],
            n_nowhere=_nowhere(data),
            config=data.config_yaml,
            summary=_summary(data, found),
            contents=found,
            scripts=SCRIPTS,
            pixelated=max(data.images.pixels.shape[2:]) <= PIXELATED_UP_TO,
            labelled=bool((data.images.targets >= 0).any()),
            mapped=_mapped(data),
            map_method=data.map_method,
            n_images=data.n_images,
            duplicates=data.duplicates,
            n_duplicates=len(data.duplicates) + data.more_duplicates,
            any_kept=any(copy.keep for group in data.duplicates for copy in group),
            outliers=data.outliers,
            n_outliers=len(data.outliers) + data.more_outliers,
            panels=panels(data.metrics),
            evaluated=evaluated(data.evaluation),
            confusion=confusion(data.images, data.clustering),
            skipped=list(data.images.skipped.items())[:MAX_SKIPPED],
            n_skipped=len(data.images.skipped),
        )
    )
    with atomic_file(path) as file:
        for piece in pieces:
            file.write(piece.encode("utf-8", "replace"))  # names of files that are not UTF-8 contain surrogates


def _mapped(data: ReportData) -> bool:
    """Whether any image is on the map."""
    return bool((data.positions.isfinite().all(dim=1) & (data.clustering.labels >= 0)).any())


def _nowhere(data: ReportData) -> int:
    """Images in no cluster."""
    return data.n_images - int(data.sizes.sum())


def _summary(data: ReportData, found: Contents) -> list[Figure]:
    left_out, sizes = _nowhere(data), data.sizes
    notes = [f"{count(found.n_shown)} of them on this page"] if found.n_shown < data.n_images else []
    notes += [f"{count(left_out)} ({percent(left_out / data.n_images)}) in no cluster"] if left_out else []
    figures = [Figure("Images", count(data.n_images), ", ".join(notes)), _clusters(sizes[sizes > 0], data)]
    scores = {key: value for row in data.metrics for key, value in row.items() if value is not None}
    agreement = AGREEMENT if (data.images.targets >= 0).any() else {}
    for key, (name, meaning) in {**agreement, **UNLABELLED}.items():
        if key in scores and math.isfinite(scores[key]):
            meaning += ", of those in a cluster" if key == "acc" and left_out else ""
            text = percent(scores[key]) if key == "acc" else f"{scores[key]:.3f}"
            figures.append(Figure(name, text, meaning))
    if data.images.skipped:
        figures.append(Figure("Skipped files", count(len(data.images.skipped)), "could not be read"))
    return figures


def _clusters(sizes: Int64[Tensor, "k"], data: ReportData) -> Figure:
    """How many clusters have images, how many of those that were asked for have none, and how many there may be."""
    n_asked = data.n_asked
    notes = [f"{count(int(sizes.min()))} to {count(int(sizes.max()))} images each"] if len(sizes) > 1 else []
    if (left := n_asked - len(sizes)) > 0:
        notes.append(f"{count(left)} more {'was asked for and is' if left == 1 else 'were asked for and are'} empty")
    if data.layers:
        are = "is another layer" if len(data.layers) == 1 else "are other layers"
        notes.append(f"{in_series([*data.layers])} {are}")
    return Figure("Clusters", count(len(sizes)), "; ".join(notes))


def count(n: int) -> str:
    """1797 as 1 797, with a narrow no-break space."""
    return f"{n:,}".replace(",", "\u202f")


def environment(*packages: str) -> Environment:
    """Jinja environment of the templates of packages, this one last, with autoescaping."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "shoal.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": count, "percent": percent, "figure": figure}
    environment.tests["best"] = lambda value: isinstance(value, Best)
    return environment
