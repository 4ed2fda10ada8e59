"""Images that are like no others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.grouping import groups_of
from shoal.clustering.neighbours import Neighbours
from shoal.mapped import by_parts
from shoal.results.tables import as_utf8, read_csv, write_columns

FAR = 3.5
"""Robust z-score from which an image is an outlier (Iglewicz and Hoaglin 1993)."""

MAX_SHARE = 0.02
"""At most this many of all images are outliers; more would be a kind of their own, not exceptions."""

_NORMAL = 1.4826
"""What the median absolute deviation of a normal distribution is multiplied by to be its standard deviation."""


@dataclass(frozen=True)
class Outlier:
    """A row of the features, its cluster, and by how many deviations its neighbours are farther than is usual there."""

    row: int
    cluster: int
    score: float


def isolation(found: Neighbours) -> Float[Tensor, "m"]:
    """Mean distance of rows to their neighbours, 0 for a row without any."""
    known = found.index >= 0
    n_known = known.sum(1)
    similarity = torch.where(known, found.similarity, 0.0).sum(1) / n_known.clamp(min=1)
    return torch.where(n_known > 0, 1 - similarity, 0.0)


def outliers(rows: Int64[Tensor, "m"], distance: Float[Tensor, "n"], clusters: Int64[Tensor, "n"]) -> list[Outlier]:
    """Find images whose ten most alike others are far, for their cluster; the farthest first.

    The mean distance to the nearest neighbours (Angiulli and Pizzuti 2002) finds what is alone, also within a
    cluster of several islands, whose centre lies between them. Clusters differ in density, so that it is taken less
    the median of the cluster and over its median absolute deviation; where that is 0, over that of all images. Copies
    of an image do not hide it if ``rows`` has each only once.

    Args:
        rows: the images that are looked at.
        distance: of all images, as ``isolation`` says.
        clusters: of all images, −1 for none.
    """
    overall: float | None = None
    found, scores = [rows[:0]], [distance[:0]]
    own = by_parts(lambda part: (clusters[part] + 1).int(), rows)
    for _, places in groups_of(own, int(own.max()) + 1 if len(own) else 1):
        members = rows[places]
        values = distance[members]
        spread = _spread(values)
        if not spread:
            overall = _spread(distance[rows]) if overall is None else overall
            spread = overall or math.inf
        score = (values - values.median()) / spread
        far = score > FAR
        found.append(members[far])
        scores.append(score[far])
    order = torch.argsort(torch.cat(found), stable=True)
    far_rows, score = torch.cat(found)[order], torch.cat(scores)[order]
    order = score.argsort(descending=True, stable=True)[: math.ceil(MAX_SHARE * len(clusters))]
    return [Outlier(int(far_rows[i]), int(clusters[far_rows[i]]), float(score[i])) for i in order.tolist()]


def _spread(values: Float[Tensor, "m"]) -> float:
    return _NORMAL * float((values - values.median()).abs().median()) if len(values) else 0.0


def write_outliers(found: Sequence[Outlier], ids: Sequence[str], path: Path) -> None:
    """Write id, cluster and score of each.

    Raises:
        UserError: the path ends neither in .parquet nor in .csv, or cannot be written.
    """
    write_columns(
        path,
        {
            "id": (pa.string(), [as_utf8(ids[each.row]) for each in found]),
            "cluster": (pa.int64(), [each.cluster for each in found]),
            "score": (pa.float32(), [each.score for each in found]),
        },
    )


def renew_outliers(path: Path, ids: Sequence[str], clusters: Int64[Tensor, "n"]) -> None:
    """Write the table again with the present clusters of its images, unless there is none or somebody has edited it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        scores = {name: float(score) for name, _, score in read_csv(path, "id", "cluster", "score", whole=True)}
    except ValueError:  # the report says what is wrong with it
        return
    if scores:
        rows = {name: row for row, name in enumerate(map(as_utf8, ids)) if name in scores}
        found = [Outlier(rows[name], int(clusters[rows[name]]), scores[name]) for name in scores if name in rows]
        write_outliers(found, ids, path)
