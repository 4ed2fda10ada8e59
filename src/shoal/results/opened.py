"""A finished folder of clusters with the way back to its images, for what is made of them later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from shoal.clustering.saved import state_of
from shoal.data import Blob, Listing
from shoal.data.reading import read_blob
from shoal.errors import UserError
from shoal.features import Embedded, Encoder, load_encoder
from shoal.results.cluster_folder import ClusterFolder
from shoal.results.clustered import Clustered
from shoal.results.inputs import same_images
from shoal.results.tables import as_utf8


@dataclass(frozen=True, eq=False)
class OpenClusters:
    """What ``outputs.clusters.Clusters`` promises, of a folder that ``open_clusters`` has looked into."""

    clustered: Clustered
    embedded: Embedded
    listing: Listing
    clusters: Int64[Tensor, "n"]

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images."""
        return self.embedded.ids

    @cached_property
    def paths(self) -> Sequence[Path | None]:
        """Files of their own; None for what lies inside an archive or a table."""
        return [self.listing.path(row) for row in self.embedded.rows.tolist()]

    @property
    def source(self) -> Path | None:
        """The folder the images are from, if they are from one."""
        source = self.clustered.source
        return Path(source) if isinstance(source, str) and Path(source).is_dir() else None

    @cached_property
    def _state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return state_of(self.clustered.clusterer)

    @property
    def header(self) -> Mapping[str, Any]:
        """Of the clusterer."""
        return self._state[0]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Of the clusterer."""
        return self._state[1]

    def contents(self) -> Iterable[Blob]:
        """All images in order, without reading those that nobody asks for."""
        wanted = iter(self.embedded.rows.tolist())
        row = next(wanted, -1)
        for at, blob in enumerate(self.listing.blobs()):
            if at == row:
                yield blob
                row = next(wanted, -1)

    @cached_property
    def _encoder(self) -> Encoder:
        return load_encoder(self.embedded.spec)

    def backbone(self) -> nn.Module:
        """Float images (b, 3, h, w) in [0, 1] in, features out, normalisation inside."""
        return self._encoder.module

    def preparation(self) -> Mapping[str, str]:
        """How an image is made ready for the backbone."""
        return self._encoder.preparing.about

    def prepared(self, n: int) -> UInt8[Tensor, "m 3 h w"]:
        """At most n images, made ready for the backbone."""
        return torch.stack([torch.from_numpy(self._encoder.prepare(data)) for data in self._readable(n)])

    def _readable(self, n: int) -> Iterator[Any]:
        for blob, _ in zip(self.contents(), range(n), strict=False):
            data, _ = read_blob(blob)
            if not isinstance(data, str):
                yield data


def open_clusters(path: Path) -> OpenClusters:
    """The clusters in a folder that ``shoal cluster`` wrote.

    Raises:
        UserError: there are none, they are of rows and not of images, or the images have changed.
    """
    folder, clustered = ClusterFolder(path), Clustered.load(path)
    if clustered.encoder is None:
        raise UserError(f"{path} holds clusters of features and knows no images: cluster the images themselves.")
    embedded, listing = same_images(clustered)
    try:
        table = pyarrow.parquet.read_table(folder.table, columns=["id", "cluster"])
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot read {folder.table}: {' '.join(str(error).split())}.") from error
    if table["id"].to_pylist() != [as_utf8(name) for name in embedded.ids]:
        raise UserError(f"{folder.table} names other images than those that were clustered: cluster anew.")
    return OpenClusters(clustered, embedded, listing, torch.from_numpy(table["cluster"].to_numpy().copy()))
