"""A trained method with its clusters: what is left of a run once it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.kmeans import assign
from shoal.config import RunConfig
from shoal.device import compute_device, preserve_rng
from shoal.errors import UserError
from shoal.methods import Method, build
from shoal.methods.embedding import embed_all, represent_all
from shoal.tensors import damaged, read_tensors, write_tensors
from shoal.training.folder import RunFolder
from shoal.training.run import Run
from shoal.types import Images


@dataclass(frozen=True, eq=False)
class Assignment:
    """Cluster of each image, cosine distance to its centre, margin to the second centre, and the features."""

    clusters: Int64[Tensor, "n"]
    distances: Float[Tensor, "n"]
    margins: Float[Tensor, "n"]
    features: Float[Tensor, "n d"]


@dataclass(frozen=True, eq=False)
class Trained:
    """Weights and centres that put any image of the right size into a cluster."""

    config: RunConfig
    method: Method
    centers: Float[Tensor, "k d"]
    size: tuple[int, int]
    """Height and width in pixels that it was trained on."""
    images_digest: str
    """What tells the images it was trained on from others."""

    @property
    def square(self) -> int | None:
        """Side that new images are brought to; None when the images were not square and so stay as they are."""
        height, width = self.size
        return height if height == width else None

    @classmethod
    def of(cls, run: Run) -> Trained:
        """The outcome of a run whose last E-step is done."""
        h, w = run.images.pixels.shape[2:]
        return cls(run.config, run.method, run.clusterings[0].centers, (h, w), run.images_digest)

    def assign(self, images: Images) -> Assignment:
        """Put images into the nearest clusters.

        Raises:
            UserError: the images have another size than those it was trained on.
        """
        h, w = images.pixels.shape[2:]
        if (h, w) != self.size:
            trained = " × ".join(map(str, self.size))
            raise UserError(f"these images are {h} × {w} px, and the run was trained on {trained} px: resize them.")
        device = self.centers.device
        features = embed_all(self.method, images.pixels, device, self.config.precision)
        return self.assign_features(features)

    def assign_features(self, features: Float[Tensor, "n d"]) -> Assignment:
        """Put features that ``method.embed`` gave into the nearest clusters."""
        return Assignment(*assign(features, self.centers, "cosine"), features)

    def represent(self, images: Images) -> Float[Tensor, "n e"]:
        """Backbone features of images of the size it was trained on: what nearest neighbours and probes read."""
        return represent_all(self.method, images.pixels, self.centers.device, self.config.precision)

    def save(self, path: Path) -> None:
        """Write ``model.safetensors``."""
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        header = {"size": self.size, "images": self.images_digest}
        write_tensors(path, header, {**tensors, "centers": self.centers})

    @classmethod
    def load(cls, path: Path) -> Trained:
        """The trained method in a run folder.

        Raises:
            UserError: there is no finished run, its file is damaged, or a newer version wrote it.
        """
        folder, config = RunFolder.open(path)
        if not folder.model.exists():
            raise UserError(f"{path} has not been trained to its end: go on with 'shoal train --resume {path}'.")
        header, tensors = read_tensors(folder.model)
        device = compute_device()
        with preserve_rng(device):
            method = build(config.method, config.backbone, config.n_clusters, torch.Generator(device))
        try:
            centers = tensors.pop("centers").to(device)
            method.load_state_dict({name.removeprefix("method."): value for name, value in tensors.items()})
            size, images_digest = tuple(header["size"]), header["images"]
        except (KeyError, RuntimeError) as error:
            raise damaged(folder.model, error) from error
        return cls(config, method.to(device).eval(), centers, size, images_digest)
