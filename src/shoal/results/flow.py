"""From rows to a finished folder of clusters."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from shoal.clustering import TEMI, approximate_neighbours, build_clusterer, cluster_centers, map_positions, suggest_k
from shoal.clustering.rows import ClusteringMethod, Metric
from shoal.clustering.suggest.suggest import Suggestion
from shoal.evaluation import clustering_scores
from shoal.features import Embedded
from shoal.files import atomic_write
from shoal.progress import Progress
from shoal.report import write_report, write_suggestion
from shoal.results.atlas import write_atlas
from shoal.results.cluster_folder import ClusterFolder
from shoal.results.clustered import Clustered
from shoal.results.duplicates import Duplicate, duplicates, first_of_each, write_duplicates
from shoal.results.inputs import Rows
from shoal.results.outliers import outliers, write_outliers
from shoal.results.page import page_data, part_of, read_again
from shoal.results.representatives import representatives, write_representatives
from shoal.results.rows import Assigned, assigned
from shoal.results.tables import write_assigned
from shoal.training.folder import write_skipped

FORMAT = 1
"""Version of suggestion.json."""


@dataclass(frozen=True)
class Outcome:
    """What a clustering came to."""

    n_rows: int
    n_clusters: int
    scores: dict[str, float]
    """Agreement with true classes, where there are any."""
    n_duplicates: int = 0
    n_outliers: int = 0

    def as_text(self, folder: ClusterFolder) -> str:
        """A line for each thing to know and each file to look at."""
        lines = [f"clusters     {self.n_clusters}, of {self.n_rows}"]
        if self.scores:
            agreement = ", ".join(f"{name.upper()} {self.scores[name]:.3f}" for name in ("acc", "nmi", "ari"))
            lines.append(f"labels       {agreement}; they had no part in the clustering")
        for what, n, path in (
            ("duplicates", self.n_duplicates, folder.duplicates),
            ("outliers", self.n_outliers, folder.outliers),
        ):
            lines += [f"{what:<12} {n}: {path}"] if n else []
        lines.append(f"assignments  {folder.assignments}")
        lines += [f"report       {folder.report}"] if folder.report.exists() else []
        return "\n".join(lines)


def suggest(
    rows: Rows, k_range: tuple[int, int] | None, metric: Metric, seed: int, folder: ClusterFolder
) -> Suggestion:
    """Rank numbers of clusters and write what speaks for each."""
    suggestion = suggest_k(rows.features, k_range, metric=metric, seed=seed)
    text = json.dumps({"format": FORMAT, "k": suggestion.k, **asdict(suggestion)}, indent=2, allow_nan=False)
    atomic_write(folder.suggestion, f"{text}\n".encode())
    write_suggestion(suggestion, folder.path.resolve().name, folder.page)
    return suggestion


def cluster(
    rows: Rows,
    n_clusters: int,
    method: ClusteringMethod,
    metric: Metric,
    seed: int,
    folder: ClusterFolder,
    progress: Progress,
) -> Outcome:
    """Put rows into clusters, lay them out on a plane, and write all there is to tell of them.

    Raises:
        UserError: there are fewer rows than clusters, they cannot be clustered so, or the folder cannot be written.
    """
    features = rows.features
    clusterer = build_clusterer(method, n_clusters, metric=metric, seed=seed, n=len(rows))
    if isinstance(clusterer, TEMI):
        clusterer.fit(features, after_epoch=progress.counter("training heads"))
    else:
        clusterer.fit(features)
    labels = torch.as_tensor(clusterer.labels_)
    centers = cluster_centers(features, labels, n_clusters, metric)
    places = map_positions(features, metric=metric, seed=seed)
    found = assigned(features, clusterer, centers, metric, places, labels)
    encoder = None if rows.embedded is None else rows.embedded.spec
    clustered = Clustered(method, clusterer, centers, metric, rows.source, rows.features_at, encoder, seed)
    for path in (folder.assignments, folder.table):
        write_assigned(found, rows.ids, path, labels=rows.targets, classes=rows.classes)
    write_representatives(representatives(features, found, n_clusters), rows.ids, folder.representatives)
    file = io.BytesIO()
    np.save(file, centers.numpy())
    atomic_write(folder.centers, file.getvalue())
    outcome = Outcome(len(rows), n_clusters, clustering_scores(rows.targets, found.clusters))
    if rows.embedded is not None:
        outcome = _with_images(outcome, rows, rows.embedded, found, clustered, folder)
    clustered.save(folder.clustering)  # last: with it the folder is finished
    return outcome


def _with_images(
    outcome: Outcome, rows: Rows, embedded: Embedded, found: Assigned, clustered: Clustered, folder: ClusterFolder
) -> Outcome:
    """What is told of images and not of mere rows: their doubles, the odd ones, and how they look."""
    first = first_of_each(embedded.fingerprints)
    near = approximate_neighbours(rows.features, (first == torch.arange(len(rows))).nonzero()[:, 0], clustered.seed)
    alike, odd = duplicates(first, near), outliers(near, found.clusters)
    write_duplicates(alike, rows.ids, folder.duplicates)
    write_outliers(odd, rows.ids, folder.outliers)
    if embedded.skipped:
        write_skipped(embedded.skipped, folder.skipped)
    pictures = read_again(rows, embedded, found, clustered)
    data = page_data(pictures, rows, found, clustered, folder.path.resolve().name, outcome.scores)
    names = [rows.ids[each.row] for each in odd]
    write_report(replace(data, duplicates=_groups(alike, rows.ids), outliers=names), folder.report)
    write_atlas(part_of(found, pictures.index), pictures.images.ids, pictures.images.pixels, folder.atlas)
    return replace(outcome, n_duplicates=len(alike), n_outliers=len(odd))


def _groups(found: Sequence[Duplicate], ids: Sequence[str]) -> list[list[str]]:
    """The names in each group of doubles."""
    groups: dict[int, list[str]] = {}
    for each in found:
        groups.setdefault(each.group, []).append(ids[each.row])
    return list(groups.values())
