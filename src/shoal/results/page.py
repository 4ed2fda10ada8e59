"""What the report of a clustering of frozen features shows: all images, or the telling ones and a sample."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.rows import Metric
from shoal.data import read_pixels
from shoal.data.listing import as_images
from shoal.features import Embedded
from shoal.report import ReportData, edge_for, sample_of_page
from shoal.results.clustered import Clustered
from shoal.results.inputs import Rows
from shoal.results.rows import Assigned
from shoal.types import Clustering, Images


@dataclass(frozen=True, eq=False)
class Shown:
    """Rows that are shown, ascending, and their images, small."""

    index: Int64[Tensor, "m"]
    images: Images


def read_again(rows: Rows, embedded: Embedded, assigned: Assigned, clustered: Clustered) -> Shown:
    """Read the images to show from their files once more."""
    clustering = Clustering(assigned.clusters, clustered.centers, assigned.distance)
    index = sample_of_page(clustering, assigned.confidence, clustered.seed).nonzero()[:, 0]
    places, ids = embedded.rows[index].tolist(), [rows.ids[i] for i in index.tolist()]
    assert rows.listing is not None
    pixels = read_pixels(rows.listing, places, edge_for(len(index)))
    images = as_images(pixels.numpy(), rows.targets[index].tolist(), rows.classes, ids, embedded.skipped)
    return Shown(index, images)


def page_data(
    pictures: Shown, rows: Rows, found: Assigned, clustered: Clustered, title: str, scores: Mapping[str, float]
) -> ReportData:
    """The data of a report, yet without doubles and odd ones."""
    index, k = pictures.index, len(clustered.centers)
    part = part_of(found, index)
    return ReportData(
        title=title,
        command=_command(rows, clustered),
        config_yaml="",
        metrics=(scores,),
        images=pictures.images,
        features=_comparable(rows.features[index], clustered.metric),
        clustering=Clustering(part.clusters, clustered.centers, part.distance),
        confidences=part.confidence,
        positions=torch.full((len(index), 2), torch.nan) if part.places is None else part.places,
        map_method="UMAP",
        seed=clustered.seed,
        sizes=torch.bincount(found.clusters, minlength=k),
        n_images=len(rows),
    )


def _comparable(features: Float[Tensor, "m d"], metric: Metric) -> Float[Tensor, "m d"]:
    """Features whose Euclidean neighbours are those by the metric of the clusters."""
    return F.normalize(features) if metric == "cosine" else features


def part_of(found: Assigned, index: Int64[Tensor, "m"]) -> Assigned:
    """The assignment of some rows."""
    places = None if found.places is None else found.places[index]
    return Assigned(found.clusters[index], found.confidence[index], found.distance[index], found.margin[index], places)


def _command(rows: Rows, clustered: Clustered) -> str:
    """What gives these clusters again."""
    source = rows.source if isinstance(rows.source, str) else "-"
    words = ["shoal", "cluster", source, "-k", str(len(clustered.centers)), "--method", clustered.method]
    words += ["--metric", clustered.metric, "--seed", str(clustered.seed)]
    if clustered.encoder is not None:
        words += ["--backbone.name", clustered.encoder.name]
        words += ["--backbone.weights", clustered.encoder.weights] if clustered.encoder.weights else []
    return shlex.join(words)
