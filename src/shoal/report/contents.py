"""The JSON that the page's scripts work with (data.js): the images shown, column by column, and the clusters."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt16
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor

from shoal.clustering import nearest_neighbours
from shoal.clustering.grouping import groups_of, least
from shoal.report.data import ReportData, class_name, majorities, members
from shoal.report.pictures import COLUMNS, Sheets, sheets
from shoal.types import Clustering

MAX_SHOWN = 20_000
"""Images on a page."""

EACH_END = 20
"""Most central and most doubtful images of a cluster that are shown whatever the sample."""

CARDS = ((30, 15, 6), (120, 9, 6))
FULL_CARD = (3, 1)
"""Most central and most doubtful images on a card; fewer with more than 30 or 120 clusters."""

N_NEIGHBOURS = 8
OFF_THE_MAP = 65535


def sample_of_page(clustering: Clustering, confidences: Float[Tensor, "n"], seed: int) -> Bool[Tensor, "n"]:
    """Mark the images that a page shows: all, or ``MAX_SHOWN``, both ends of each cluster and a random sample.

    Args:
        clustering: of all n images; images in no cluster (−1) are sampled last.
        confidences: of the assignments.
        seed: of the random sample.
    """
    labels, k = clustering.labels, len(clustering.centers)
    if len(labels) <= MAX_SHOWN:
        return torch.ones(len(labels), dtype=torch.bool)
    rank = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    rank[labels < 0] += 1
    each_end = max(1, min(EACH_END, MAX_SHOWN // (2 * max(1, k))))
    for _, own in groups_of(labels, k):
        for values in (clustering.distances, confidences):
            ends = least(values, own, each_end)
            rank[ends[values[ends].argsort(stable=True)[:each_end]]] = -1
    shown = torch.zeros(len(labels), dtype=torch.bool)
    shown[rank.topk(MAX_SHOWN, largest=False).indices] = True
    return shown


@dataclass(frozen=True, eq=False)
class Contents:
    """``values`` become the JSON of the page; the templates use the rest."""

    values: Mapping[str, Any]
    sheets: Sheets
    n_shown: int


def contents(data: ReportData) -> Contents:
    """Choose the images to show and encode everything about them.

    They are in the order of their clusters, the most central first; images in no cluster come last. Thumbnails are in
    the same order, except that those on cards come first: the first view needs a single sheet.
    """
    clusters = members(data.clustering)
    order = torch.cat([*clusters, torch.nonzero(data.clustering.labels < 0).squeeze(1)])
    shown = order[sample_of_page(data.clustering, data.confidences, data.seed)[order]]
    own = data.clustering.labels[shown]
    found = majorities(data.images, clusters)
    ids = [data.images.ids[i] for i in shown.tolist()]
    place = {name: i for i, name in enumerate(ids)}
    card = next((numbers for most, *numbers in CARDS if len(clusters) <= most), FULL_CARD)
    cells = _cells(own, data.confidences[shown], *card)
    values = {
        "key": _key(ids, own),
        "nImages": data.n_images,
        "classes": [class_name(data.images, i) for i in range(int(data.images.targets.max()) + 1)],
        "ids": ids,
        "sizes": data.sizes.tolist(),
        "merged": [*data.merged],
        "names": [data.names.get(cluster, "") for cluster in range(len(clusters))],
        "majorities": [each.name for each in found],
        "purities": [round(each.purity, 4) for each in found],
        "card": dict(zip(("central", "doubtful"), card, strict=True)),
        "columns": _columns(data, shown) | {"cell": _encoded(cells.argsort(), np.int32)},
        "duplicates": [
            [{"image": place.get(copy.id, copy.id), "note": copy.note, "keep": copy.keep} for copy in group]
            for group in data.duplicates
        ],
        "outliers": [place.get(name, name) for name in data.outliers],
    }
    thumbs = sheets(data.images.pixels, shown[cells])
    values["sheet"] = {"columns": COLUMNS, "width": thumbs.width, "height": thumbs.height}
    return Contents(values, thumbs, len(ids))


def _columns(data: ReportData, shown: Int64[Tensor, "m"]) -> dict[str, str]:
    """Columns of the images shown, as bytes in base64."""
    labels = data.clustering.labels[shown]
    return {
        "cluster": _encoded(labels, np.int32),
        "label": _encoded(data.images.targets[shown], np.int32),
        "confidence": _encoded(data.confidences[shown], np.float32),
        "place": _encoded(map_coordinates(data.positions[shown]), np.uint16),
        "neighbours": _encoded(nearest_images(data.features[shown]), np.int32),
    }


def nearest_images(features: Float[Tensor, "n d"]) -> Int64[Tensor, "n 8"]:
    """Indices of the eight rows nearest to each row, nearest first; padded with −1."""
    n_found = min(N_NEIGHBOURS, len(features) - 1)
    if n_found < 1:
        return torch.full((len(features), N_NEIGHBOURS), -1)
    found, _ = nearest_neighbours(features, n_found, "euclidean")
    return F.pad(found, (0, N_NEIGHBOURS - n_found), value=-1)


def map_coordinates(positions: Float[Tensor, "m 2"]) -> UInt16[np.ndarray, "m 2"]:
    """Coordinates as integers that fill [0, 65 534] on each axis; 65 535: not on the map."""
    known = positions.isfinite().all(dim=1)
    grid = np.full((len(positions), 2), OFF_THE_MAP, np.uint16)
    if known.any():
        inside = positions[known].double().numpy()
        low, size = inside.min(axis=0), np.ptp(inside, axis=0)
        unit = np.where(size > 0, (inside - low) / np.where(size > 0, size, 1), 0.5)
        grid[known.numpy()] = np.rint(unit * (OFF_THE_MAP - 1))
    return grid


def _cells(
    clusters: Int64[Tensor, "m"], confidences: Float[Tensor, "m"], central: int, doubtful: int
) -> Int64[Tensor, "m"]:
    """Order of the thumbnails: those on cards first, cluster by cluster, then the others."""
    on_cards = torch.zeros(len(clusters), dtype=torch.bool)
    for own in np.split(np.arange(len(clusters)), np.flatnonzero(np.diff(clusters.numpy())) + 1):
        rest = torch.from_numpy(own[central:])
        on_cards[own[:central]] = True
        on_cards[rest[confidences[rest].argsort(stable=True)[:doubtful]]] = True
    return torch.argsort(~on_cards, stable=True)


def _key(ids: Sequence[str], clusters: Int64[Tensor, "m"]) -> str:
    """Key under which the browser stores the edits of this page."""
    digest = hashlib.sha256("\0".join(ids).encode("utf-8", "surrogatepass"))
    digest.update(clusters.numpy().tobytes())
    return digest.hexdigest()[:16]


def _encoded(column: ArrayLike, kind: DTypeLike) -> str:
    little = np.asarray(column, dtype=kind).astype(np.dtype(kind).newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode("ascii")
