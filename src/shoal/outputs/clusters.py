"""What the commands ask of a folder of clusters, once it is open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from shoal.data.listing import Blob


class Clusters(Protocol):
    """A clustering and the way back to its images, a row for each."""

    ids: Sequence[str]
    clusters: Int64[Tensor, "n"]
    paths: Sequence[Path | None]
    """Files of their own; None for what lies inside an archive or a table."""
    source: Path | None
    """The folder the images are from, if they are from one."""
    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """Of the clusterer, from ``state_of``."""

    def contents(self) -> Iterable[Blob]:
        """All images in order, without reading those that nobody asks for."""

    def backbone(self) -> nn.Module:
        """Float images (b, 3, h, w) in [0, 1] in, features out, normalisation inside."""

    def preparation(self) -> Mapping[str, str]:
        """How an image is made ready for the backbone, in words by name: resize, interpolation, crop."""

    def prepared(self, n: int) -> UInt8[Tensor, "m 3 h w"]:
        """At most n images, made ready for the backbone."""
