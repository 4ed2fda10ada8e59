"""What the page's scripts work with: the images shown, column by column, and the clusters."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor

from shoal.clustering import nearest_neighbours
from shoal.report.data import Majority, ReportData, class_name, majorities, members
from shoal.report.pictures import COLUMNS, Sheets, sheets
from shoal.report.scatter import layout, method_of, on_paper
from shoal.types import Clustering

N_NEIGHBOURS = 8


def nearest_images(features: Float[Tensor, "n d"]) -> Int64[Tensor, "n 8"]:
    """The eight rows nearest to each by Euclidean distance, the nearest first; −1 where there are fewer others."""
    n_found = min(N_NEIGHBOURS, len(features) - 1)
    if n_found < 1:
        return torch.full((len(features), N_NEIGHBOURS), -1)
    found, _ = nearest_neighbours(features, n_found, "euclidean")
    return F.pad(found, (0, N_NEIGHBOURS - n_found), value=-1)


MAX_SHOWN = 20_000

EACH_END = 20
"""Images of either end of a cluster, the central and the doubtful, that are shown whatever the sample."""


def sample_of_page(clustering: Clustering, certainty: Float[Tensor, "n"], seed: int) -> Bool[Tensor, "n"]:
    """Mark the images to show: all, or ``MAX_SHOWN``: both ends of each cluster, then clustered ones at random.

    Args:
        clustering: of all n images; a label of −1 is no cluster.
        certainty: the less, the more doubtful.
        seed: of the draw.
    """
    labels, k = clustering.labels, len(clustering.centers)
    if len(labels) <= MAX_SHOWN:
        return torch.ones(len(labels), dtype=torch.bool)
    rank = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    rank[labels < 0] += 1
    each_end = max(1, min(EACH_END, MAX_SHOWN // (2 * max(1, k))))
    by_cluster = torch.argsort(labels, stable=True)
    for own in torch.split(by_cluster, torch.bincount(labels + 1, minlength=k + 1).tolist())[1:]:
        for order in (clustering.distances[own], certainty[own]):
            rank[own[order.argsort(stable=True)[:each_end]]] = -1
    shown = torch.zeros(len(labels), dtype=torch.bool)
    shown[rank.argsort()[:MAX_SHOWN]] = True
    return shown


CARDS = ((30, 15, 6), (120, 9, 6))
FULL_CARD = (3, 1)
"""Most central and most doubtful images of a cluster's card: fewer where there are more than 30 or 120 clusters."""

MAX_LISTED = 500
"""Groups of duplicates, and outliers, that a page lists."""


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything for the scripts: ``values`` becomes JSON; ``method`` says how the map was made, if it was here."""

    values: Mapping[str, Any]
    sheets: Sheets
    sizes: Int64[Tensor, "k"]
    majorities: Sequence[Majority]
    n_images: int
    n_shown: int
    method: str


def contents(data: ReportData) -> Contents:
    """Choose the images to show and gather all that is known of them.

    They stand in the order of their clusters, the most central of each first, those in no cluster last. So do their
    thumbnails, but for those of the cards, which come before all others: the first view needs one sheet, and a page of
    a gallery two or three.
    """
    generator = torch.Generator().manual_seed(data.seed)
    clusters = members(data.clustering)
    order = torch.cat([*clusters, torch.nonzero(data.clustering.labels < 0).squeeze(1)])
    shown = order[sample_of_page(data.clustering, _doubt(data), data.seed)[order]]
    own = data.clustering.labels[shown]
    clustered = torch.nonzero(own >= 0).squeeze(1)
    given = data.places is not None
    places = layout(data.features[shown], clustered, generator) if data.places is None else data.places[shown]
    sizes = torch.tensor([len(each) for each in clusters]) if data.sizes is None else data.sizes
    found = majorities(data.images, clusters)
    ids = [data.images.ids[i] for i in shown.tolist()]
    place = {name: i for i, name in enumerate(ids)}
    n_images = len(data.images) if data.n_images is None else data.n_images
    card = next((numbers for most, *numbers in CARDS if len(clusters) <= most), FULL_CARD)
    cells = _cells(own, _doubt(data)[shown], *card)
    values = {
        "key": _key(ids, own),
        "nImages": n_images,
        "classes": [class_name(data.images, i) for i in range(int(data.images.targets.max()) + 1)],
        "ids": ids,
        "sizes": sizes.tolist(),
        "majorities": [each.name for each in found],
        "purities": [round(each.purity, 4) for each in found],
        "card": dict(zip(("central", "doubtful"), card, strict=True)),
        "columns": _columns(data, shown, places) | {"cell": _encoded(cells.argsort(), np.int32)},
        "duplicates": [[place.get(name, name) for name in group] for group in data.duplicates[:MAX_LISTED]],
        "outliers": [place.get(name, name) for name in data.outliers[:MAX_LISTED]],
    }
    thumbs = sheets(data.images.pixels, shown[cells])
    values["sheet"] = {"columns": COLUMNS, "width": thumbs.width, "height": thumbs.height}
    method = "" if given else method_of(len(clustered))
    return Contents(values, thumbs, sizes, found, n_images, len(ids), method)


def _columns(data: ReportData, shown: Int64[Tensor, "m"], places: Float[Tensor, "m 2"]) -> dict[str, str | None]:
    """A number or more of each image shown, as bytes in base64."""
    return {
        "cluster": _encoded(data.clustering.labels[shown], np.int32),
        "label": _encoded(data.images.targets[shown], np.int32),
        "certainty": _encoded(_doubt(data)[shown], np.float32),
        "confidence": None if data.confidences is None else _encoded(data.confidences[shown], np.float32),
        "place": _encoded(on_paper(places), np.uint16),
        "neighbours": _encoded(_neighbours(data, shown), np.int32),
    }


def _doubt(data: ReportData) -> Float[Tensor, "n"]:
    """The less, the more doubtful."""
    return data.margins if data.confidences is None else data.confidences


def _cells(
    clusters: Int64[Tensor, "m"], certainty: Float[Tensor, "m"], central: int, doubtful: int
) -> Int64[Tensor, "m"]:
    """The order of the thumbnails: cluster by cluster what its card shows, and then the rest."""
    on_cards = torch.zeros(len(clusters), dtype=torch.bool)
    for own in np.split(np.arange(len(clusters)), np.flatnonzero(np.diff(clusters.numpy())) + 1):
        rest = torch.from_numpy(own[central:])
        on_cards[own[:central]] = True
        on_cards[rest[certainty[rest].argsort(stable=True)[:doubtful]]] = True
    return torch.argsort(~on_cards, stable=True)


def _neighbours(data: ReportData, shown: Int64[Tensor, "m"]) -> Int64[Tensor, "m 8"]:
    """Places among the shown."""
    if data.neighbours is None or len(shown) < len(data.images):
        return nearest_images(data.features[shown])
    place = torch.full((len(shown) + 1,), -1)  # the last is where −1 looks
    place[shown] = torch.arange(len(shown))
    return place[data.neighbours[shown]]


def _key(ids: Sequence[str], clusters: Int64[Tensor, "m"]) -> str:
    """Tells the edits of one page from those of another in the browser's store."""
    digest = hashlib.sha256("\0".join(ids).encode("utf-8", "surrogatepass"))
    digest.update(clusters.numpy().tobytes())
    return digest.hexdigest()[:16]


def _encoded(column: ArrayLike, kind: DTypeLike) -> str:
    little = np.asarray(column, dtype=kind).astype(np.dtype(kind).newbyteorder("<"), copy=False)
    return base64.b64encode(little.tobytes()).decode("ascii")
