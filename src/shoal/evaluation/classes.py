"""Class by class: where each went, and how purely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from shoal.clustering.contingency import Contingency, Labels
from shoal.evaluation.metrics import matched_confusion
from shoal.evaluation.result import ClassScore


def class_scores(labels: Labels, pred: Labels, n_clusters: int, classes: Sequence[str]) -> list[ClassScore]:
    """A row for each class that has a clustered image, under the matching of ``acc``.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k.
        classes: names by label; labels beyond them go by their number.
    """
    table, matches = matched_confusion(labels, pred, n_clusters)
    cluster_of = dict(matches)
    in_cluster, in_class = table.sizes()
    sizes = dict(zip(table.cluster_ids.tolist(), in_cluster.tolist(), strict=True))
    shared = _shared(table, cluster_of)
    rows = []
    for label, images in zip(table.class_ids.tolist(), in_class.tolist(), strict=True):
        cluster = cluster_of.get(label)
        hits, size = shared.get(label, 0), sizes.get(cluster, 0)
        rows.append(
            ClassScore(
                name=_as_utf8(classes[label]) if label < len(classes) else str(label),
                images=images,
                cluster=cluster,
                recall=hits / images,
                precision=hits / size if size else None,
            )
        )
    return rows


def matched_class(labels: Labels, pred: Labels, n_clusters: int) -> Int64[np.ndarray, "k"]:
    """Class that ``acc`` matches each cluster to, -1 for none; arguments as for ``class_scores``."""
    _, matches = matched_confusion(labels, pred, n_clusters)
    matched = np.full(n_clusters, -1, dtype=np.int64)
    for label, cluster in matches:
        matched[cluster] = label
    return matched


def _shared(table: Contingency, cluster_of: Mapping[int, int]) -> dict[int, int]:
    """Rows of a class in the cluster that it is matched to, where there are any."""
    pairs = zip(
        table.class_ids[table.classes].tolist(),
        table.cluster_ids[table.clusters].tolist(),
        table.counts.tolist(),
        strict=True,
    )
    return {label: count for label, cluster, count in pairs if cluster_of.get(label) == cluster}


def _as_utf8(name: str) -> str:
    # A folder's name need not be UTF-8, but JSON is.
    return name.encode("utf-8", "backslashreplace").decode()
