"""A result with fewer clusters than it was made with: its merge tree, cut."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import one_hot

from shoal.clustering.centroids import cluster_centers
from shoal.clustering.merging import merged_clusters
from shoal.results.model import Combine, Model
from shoal.results.result import Result
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import write_assignments


def merge(result: Result, merge_to: int) -> tuple[Assignments, Model]:
    """Who is in which cluster, and what puts images into them, once clusters are merged until this many are left.

    Confidence is the sum of the probabilities of the clusters that are merged into one. Nothing is written.

    Raises:
        UserError: there are no more clusters than that, or the features are gone.
    """
    found, model = result.assignments, result.model
    k = len(model.numbers)
    slots = model.slots_of(found.labels)
    into = merged_clusters(result.features, slots, k, merge_to, result.metric)
    labels = into[slots.clamp(min=0)].where(slots >= 0, -1)
    centers = cluster_centers(result.features, labels, merge_to, result.metric)
    nothing = torch.zeros(0, centers.shape[1])
    combine = Combine(one_hot(into, merge_to).float(), nothing, (), torch.zeros(0, dtype=torch.int64), result.metric)
    own = Model(model, centers, torch.arange(merge_to), combine)
    assigned = assign_rows(result.features, own, centers, result.metric, labels=labels, positions=found.positions)
    return assigned, own


def write_merged_tables(result: Result, found: Assignments, merge_to: int) -> Path:
    """Write who is in which merged cluster, as ``assignments-INT.csv`` and ``.parquet``; the former is returned.

    Raises:
        UserError: the folder cannot be written.
    """
    embedded, folder = result.embedded, result.folder
    targets, classes = (None, ()) if embedded is None else (embedded.targets, embedded.classes)
    paths = [folder.path / f"{folder.assignments.stem}-{merge_to}{suffix}" for suffix in (".csv", ".parquet")]
    for path in paths:
        write_assignments(found, result.ids, path, targets=targets, classes=classes)
    return paths[0]
