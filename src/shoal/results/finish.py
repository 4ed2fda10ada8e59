"""Writes what both engines end in: tables, map, report, and the clustering itself."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.clustering import approximate_neighbours, map_positions
from shoal.evaluation import clustering_scores
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.report import edge_for, sample_of_page
from shoal.results.atlas import write_atlas
from shoal.results.duplicates import ALIKE, duplicates, first_of_each, write_duplicates
from shoal.results.inputs import Inputs
from shoal.results.outliers import outliers, write_outliers
from shoal.results.page import write_page
from shoal.results.representatives import representatives, write_representatives
from shoal.results.result import Result
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import write_assignments, write_skipped
from shoal.types import Clustering


@dataclass(frozen=True)
class Outcome:
    """Summary of a clustering."""

    n_rows: int
    n_clusters: int
    scores: dict[str, float]
    """Agreement with true classes, where there are any."""
    n_duplicates: int = 0
    n_outliers: int = 0

    def as_text(self, folder: ResultFolder) -> str:
        """One line per figure and per file to look at."""
        lines = [f"clusters     {self.n_clusters}, of {self.n_rows}"]
        if self.scores:
            agreement = ", ".join(f"{name.upper()} {self.scores[name]:.3f}" for name in ("acc", "nmi", "ari"))
            lines.append(f"labels       {agreement}; they had no part in the clustering")
        for what, n, path in (
            ("duplicates", self.n_duplicates, folder.duplicates),
            ("outliers", self.n_outliers, folder.outliers),
        ):
            lines += [f"{what:<12} {n}: {path}"] if n else []
        lines.append(f"assignments  {folder.assignments_csv}")
        lines += [f"report       {folder.report}"] if folder.report.exists() else []
        return "\n".join(lines)


def finish(result: Result, inputs: Inputs, labels: Int64[Tensor, "n"]) -> Outcome:
    """Write tables, map, report and last the clustering itself.

    Args:
        result: the fitted clusters.
        inputs: what was clustered.
        labels: the cluster of each row.

    Raises:
        UserError: features hold NaN or infinity, or the folder cannot be written.
    """
    features = inputs.features
    positions = map_positions(features, metric=result.metric, seed=result.seed)
    found = assign_rows(features, result.clusterer, result.centers, result.metric, labels=labels, positions=positions)
    return write_files(result, inputs, found)


def write_files(result: Result, inputs: Inputs, found: Assignments, names: Mapping[int, str] | None = None) -> Outcome:
    """``finish`` for assignments that are known; ``names`` are those of clusters that have one.

    Raises:
        UserError: the folder cannot be written.
    """
    folder, features, k = result.folder, inputs.features, len(result.centers)
    for path in (folder.assignments_csv, folder.assignments):
        write_assignments(found, inputs.ids, path, names=names, targets=inputs.targets, classes=inputs.classes)
    # Training pulls the images of a cluster together, so features that are near say nothing of copies.
    alike = ALIKE if result.encoder is None or result.encoder.kind == "timm" else math.inf
    write_representatives(representatives(features, found, k, alike), inputs.ids, folder.representatives)
    file = io.BytesIO()
    np.save(file, result.centers.numpy())
    atomic_write(folder.centers, file.getvalue())
    outcome = Outcome(len(inputs), k, clustering_scores(inputs.targets, found.labels))
    if inputs.embedded is not None:
        outcome = _of_images(outcome, result, inputs, found, alike)
        write_page(result)
    result.save()  # last: with it the folder is finished
    return outcome


def _of_images(outcome: Outcome, result: Result, inputs: Inputs, found: Assignments, alike: float) -> Outcome:
    """Duplicates, outliers and thumbnails: what there is to say of images and not of mere rows."""
    assert inputs.embedded is not None
    assert inputs.pictures is not None
    folder = result.folder
    first = first_of_each(inputs.embedded.fingerprints)
    near = approximate_neighbours(inputs.features, (first == torch.arange(len(inputs))).nonzero()[:, 0], result.seed)
    copies, odd = duplicates(first, near, alike), outliers(near, found.labels)
    write_duplicates(copies, inputs.ids, folder.duplicates)
    write_outliers(odd, inputs.ids, folder.outliers)
    if inputs.embedded.skipped:
        write_skipped(inputs.embedded.skipped, folder.skipped)
    clustering = Clustering(found.labels, result.centers, found.distance)
    index = sample_of_page(clustering, found.confidence, result.seed).nonzero()[:, 0]
    ids = [inputs.ids[i] for i in index.tolist()]
    write_atlas(found[index], ids, inputs.pictures(index, edge_for(len(index))), folder.atlas)
    return replace(outcome, n_duplicates=len(copies), n_outliers=len(odd))
