"""Class by class: where each went, and how purely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from shoal.evaluation.metrics import Labels, matched_confusion
from shoal.evaluation.result import ClassScore


def class_scores(labels: Labels, pred: Labels, n_clusters: int, classes: Sequence[str]) -> list[ClassScore]:
    """A row for each class that has a clustered image, under the matching of ``acc``.

    Args:
        labels: true class of each row, -1 for none.
        pred: cluster of each row in [0, n_clusters), -1 for none.
        n_clusters: k.
        classes: names by label; labels beyond them go by their number.
    """
    counts, matches = matched_confusion(labels, pred, n_clusters)
    cluster_of = dict(matches)
    in_class, in_cluster = counts.sum(axis=1), counts.sum(axis=0)
    rows = []
    for label in np.flatnonzero(in_class).tolist():
        cluster = cluster_of.get(label)
        hits = 0 if cluster is None else int(counts[label, cluster])
        size = 0 if cluster is None else int(in_cluster[cluster])
        rows.append(
            ClassScore(
                name=_as_utf8(classes[label]) if label < len(classes) else str(label),
                images=int(in_class[label]),
                cluster=cluster,
                recall=hits / int(in_class[label]),
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


def _as_utf8(name: str) -> str:
    # A folder's name need not be UTF-8, but JSON is.
    return name.encode("utf-8", "backslashreplace").decode()
