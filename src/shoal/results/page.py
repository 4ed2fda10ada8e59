"""The report of a result, from what its folder keeps: nothing is embedded and no image is decoded again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering import UMAPHDBSCAN, map_method
from shoal.clustering.grouping import group_sizes
from shoal.clustering.rows import Metric
from shoal.data.listing import as_images
from shoal.errors import UserError
from shoal.evaluation import Evaluation, clustering_scores
from shoal.folder import FINE_TUNED, ResultFolder
from shoal.report import ReportData, write_report
from shoal.report.data import Copy
from shoal.results.atlas import read_atlas
from shoal.results.chosen import as_flags
from shoal.results.layers import layer_command
from shoal.results.merging import merge, write_merged_tables
from shoal.results.model import Model
from shoal.results.result import Result
from shoal.results.rows import Assignments
from shoal.results.tables import read_csv
from shoal.types import Clustering

MOST_LISTED = 500
"""Groups of duplicates, and outliers, that a page lists."""


def write_page(result: Result) -> None:
    """Write ``report.html``.

    Raises:
        UserError: features were clustered and not images, or something in the folder is damaged or missing.
    """
    write_report(report_data(result), result.folder.report)


def write_merged(result: Result, merge_to: int) -> tuple[Path, Path]:
    """Write the report of a result whose clusters are merged into fewer, and their tables, beside its own.

    Raises:
        UserError: as ``write_page``, or there are no more clusters than that.
    """
    merged = merge(result, merge_to)
    page = result.folder.path / f"report-{merge_to}.html"
    write_report(report_data(result, merged), page)
    return page, write_merged_tables(result, merged[0], merge_to)


def report_data(result: Result, merged_into: tuple[Assignments, Model] | None = None) -> ReportData:
    """What the report of a result shows, or of the result with its clusters merged into fewer, as by ``merge``.

    Raises:
        UserError: as ``write_page``.
    """
    embedded, folder = result.embedded, result.folder
    if embedded is None:
        raise UserError(f"{folder.path} holds clusters of features, so there are no images to show in a report.")
    found, model = (result.assignments, result.model) if merged_into is None else merged_into
    whole = merged_into is None
    ids, pixels = read_atlas(folder.atlas)
    index = rows_of(ids, result)
    shown, clusters = found[index], model.numbers
    k = 1 + int(clusters.max())
    merged = torch.ones(k, dtype=torch.bool)
    merged[clusters] = False
    centers = torch.zeros(k, result.centers.shape[1])
    centers[clusters] = model.centers
    assert shown.positions is not None
    copies, more_copies = read_copies(folder.duplicates, MOST_LISTED)
    alone, more_alone = _first_outliers(folder.outliers)
    images = as_images(pixels.numpy(), embedded.targets[index].tolist(), embedded.classes, ids, embedded.skipped)
    return ReportData(
        title=folder.place.resolve().name,
        command=command_of(result) if whole else _merging_command(result, len(model.numbers)),
        config_yaml=folder.config.read_text("utf-8", "replace") if folder.is_run else "",
        metrics=_metrics(folder, clustering_scores(embedded.targets, found.labels), merged=not whole),
        images=images,
        features=_comparable(embedded.features[index], result.metric),
        clustering=Clustering(shown.labels, centers, shown.distance),
        confidences=shown.confidence,
        positions=shown.positions,
        map_method=map_method(len(found.labels)),
        seed=result.seed,
        sizes=group_sizes(found.labels, k),
        merged=merged.nonzero()[:, 0].tolist(),
        layers={k: layer_command(result, k) for k in result.layers if whole},
        n_asked=result.asked if result.decided is None and whole else 0,
        n_images=len(found.labels),
        names=result.names if whole else {},
        duplicates=[*copies.values()],
        more_duplicates=more_copies,
        outliers=alone,
        more_outliers=more_alone,
        evaluation=Evaluation.load(folder.evaluation) if whole else None,
    )


def _metrics(
    folder: ResultFolder, scores: Mapping[str, float], *, merged: bool
) -> Sequence[Mapping[str, float | int | None]]:
    """Rows of metrics.jsonl; for what was not trained, or not so, the scores of the clusters that are shown."""
    rows = folder.read_metrics()
    if rows and not merged:
        return rows
    return [*rows, {**scores, "silhouette": math.nan}]


def _first_outliers(path: Path) -> tuple[list[str], int]:
    """Names of the first outliers of a table, and how many there are beside them."""
    rows = read_csv(path, "id")
    return [name for (name,) in islice(rows, MOST_LISTED)], sum(1 for _ in rows)


def read_copies(path: Path, most: float = math.inf) -> tuple[dict[str, list[Copy]], int]:
    """The first groups of near-duplicates in a table, by their names, and how many there are beside them.

    There are none where there is no table.

    Raises:
        UserError: the table is damaged.
    """
    found: dict[str, list[Copy]] = {}
    others: set[str] = set()
    for group, name, kind, keep, width, height in read_csv(
        path, "group", "id", "kind", later=("keep", "width", "height")
    ):
        if group not in found and len(found) >= most:
            others.add(group)
            continue
        size = f"{width} × {height}" if width else ""
        found.setdefault(group, []).append(Copy(name, kind, keep == "true", size))
    return found, len(others)


def command_of(result: Result) -> str:
    """The shell command that reproduces the clusters."""
    if result.folder.is_run:
        first = result.folder.config.read_text("utf-8", "replace").partition("\n")[0]
        if first.startswith(FINE_TUNED):
            return first.removeprefix("# ")
        return shlex.join(["shoal", "train", str(ResultFolder(result.folder.place).config.absolute())])
    source = result.source if isinstance(result.source, str) else "-"
    words = ["shoal", "cluster", source, "-k", str(result.asked), "--method", result.method]
    if isinstance(result.clusterer, UMAPHDBSCAN) and result.clusterer.min_cluster_size is not None:
        words += ["--min-cluster-size", str(result.clusterer.min_cluster_size)]
    words += ["--metric", result.metric, "--seed", str(result.seed)]
    if result.encoder is not None:
        names, weights = as_flags(result.encoder)
        words += ["--backbone.name", names, *(["--backbone.weights", weights] if weights else [])]
    return shlex.join(words)


def _merging_command(result: Result, merge_to: int) -> str:
    """The shell command that writes the report of merged clusters."""
    return shlex.join(["shoal", "report", str(ResultFolder(result.folder.place).path), "--merge-to", str(merge_to)])


def rows_of(ids: Sequence[str], result: Result) -> Int64[Tensor, "m"]:
    """The rows of images of the atlas, which stand in the order of the rows."""
    wanted = iter(ids)
    name, rows = next(wanted, None), []
    for row, known in enumerate(result.table_ids):
        if known == name:
            rows.append(row)
            name = next(wanted, None)
    if name is not None:
        raise UserError(f"{result.folder.atlas} shows {name}, which was not clustered: cluster again.")
    return torch.tensor(rows, dtype=torch.int64)


def _comparable(features: Float[Tensor, "m d"], metric: Metric) -> Float[Tensor, "m d"]:
    """Features whose Euclidean neighbours are those by the metric of the clusters."""
    return F.normalize(features) if metric == "cosine" else features
