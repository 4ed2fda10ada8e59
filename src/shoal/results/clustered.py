"""What is left of a clustering: enough to put new images, or new rows, into its clusters."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from shoal.clustering.rows import ClusteringMethod, Metric
from shoal.clustering.saved import Clusterer, clusterer_from, state_of
from shoal.errors import UserError
from shoal.features import EncoderSpec
from shoal.results.cluster_folder import ClusterFolder
from shoal.tensors import damaged, read_tensors, write_tensors


@dataclass(frozen=True, eq=False)
class Clustered:
    """A fitted clusterer, the centres of its clusters among the features, and what made the features."""

    method: ClusteringMethod
    clusterer: Clusterer
    centers: Float[Tensor, "k d"]
    metric: Metric
    source: str | list[str]
    """Where the images were: what ``find_source`` takes."""
    features_at: str
    """The folder that holds the features of images; kept as "features" where it lies in the clusters' own folder, which
    may be moved."""
    encoder: EncoderSpec | None
    """None where features were given and not made."""
    seed: int

    def save(self, path: Path) -> None:
        """Write ``clustering.safetensors``."""
        header, tensors = state_of(self.clusterer)
        own = Path(self.features_at) == ClusterFolder(path.parent.resolve()).features
        encoder = None if self.encoder is None else asdict(self.encoder)
        ours: dict[str, Any] = {
            "method": self.method,
            "clusterer": header,
            "metric": self.metric,
            "source": self.source,
            "features": "features" if own else self.features_at,
        }
        ours |= {"encoder": encoder, "seed": self.seed}
        named = {f"clusterer.{name}": value for name, value in tensors.items()}
        write_tensors(path, ours, {**named, "centers": self.centers})

    @classmethod
    def load(cls, path: Path) -> Clustered:
        """The clustering in a folder that ``shoal cluster`` wrote.

        Raises:
            UserError: there is none, it is damaged, or a newer version wrote it.
        """
        folder = ClusterFolder(path)
        if not folder.is_clustered:
            raise UserError(f"{path} holds no finished clusters: they are made by 'shoal cluster'.")
        header, tensors = read_tensors(folder.clustering)
        try:
            centers = tensors.pop("centers")
            named = {name.removeprefix("clusterer."): value for name, value in tensors.items()}
            encoder = None if header["encoder"] is None else EncoderSpec(**header["encoder"])
            clusterer = clusterer_from(header["clusterer"], named)
            metric, source = header["metric"], header["source"]
            features_at = str(path.resolve() / header["features"])
            return cls(header["method"], clusterer, centers, metric, source, features_at, encoder, int(header["seed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(folder.clustering, error) from error
