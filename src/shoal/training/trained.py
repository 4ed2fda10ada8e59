"""A trained network: what ``model.safetensors`` holds once a run is done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from shoal.config import RunConfig, load_recipe, plugins_of
from shoal.data.greys import BEFORE, Ranges
from shoal.device import compute_device, preserve_rng
from shoal.errors import UserError
from shoal.folder import ResultFolder
from shoal.methods import Method, build
from shoal.methods.embedding import embed_all, represent_all
from shoal.tensors import damaged, read_tensors, write_tensors
from shoal.training.digests import plugin_digests, warn_of_changed_plugins
from shoal.training.run import Run
from shoal.types import Images


@dataclass(frozen=True, eq=False)
class Trained:
    """A method with its weights, and the centres of its clusters."""

    config: RunConfig
    method: Method
    centers: Float[Tensor, "k d"]
    size: tuple[int, int]
    """Height and width in pixels of the images it was trained on."""
    images_digest: str
    """Tells the images it was trained on from others."""
    ranges: Ranges = field(default_factory=dict)
    """Values of more than 8 bits that became black and white in these, by type of number."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters that it was trained with, those without images included."""
        return len(self.centers) if self.config.n_clusters == "auto" else self.config.n_clusters

    @property
    def square(self) -> int | None:
        """Side that new images are brought to; None when the training images were not square: no image is resized."""
        height, width = self.size
        return height if height == width else None

    @classmethod
    def of(cls, run: Run) -> Trained:
        """The outcome of a run whose last E-step is done."""
        h, w = run.images.pixels.shape[2:]
        centers = run.clusterings[0].centers
        config = replace(run.config, n_clusters=run.n_clusters)
        return cls(config, run.method, centers, (h, w), run.images_digest, run.images.ranges)

    def embed(self, images: Images) -> Float[Tensor, "n d"]:
        """The features that are clustered, at unit length, on the CPU.

        Raises:
            UserError: the images have another size than those it was trained on.
        """
        self._check_size(images)
        return embed_all(self.method, images.pixels, self.centers.device, self.config.precision).cpu()

    def represent(self, images: Images) -> Float[Tensor, "n e"]:
        """The backbone's features, which nearest neighbours and linear probes read, on the CPU.

        Raises:
            UserError: as ``embed``.
        """
        self._check_size(images)
        return represent_all(self.method, images.pixels, self.centers.device, self.config.precision).cpu()

    def _check_size(self, images: Images) -> None:
        found = tuple(images.pixels.shape[2:])
        if found != self.size:
            (h, w), trained = found, " × ".join(map(str, self.size))
            raise UserError(f"these images are {h} × {w} px, and the run was trained on {trained} px: resize them.")

    def save(self, path: Path) -> None:
        """Write ``model.safetensors``."""
        tensors = {f"method.{name}": value for name, value in self.method.state_dict().items()}
        header = {
            "size": self.size,
            "images": self.images_digest,
            "ranges": dict(self.ranges),
            "plugins": plugin_digests(self.config),
        }
        write_tensors(path, header, {**tensors, "centers": self.centers})

    @classmethod
    def load(cls, path: Path) -> Trained:
        """The trained network in the folder of a run.

        Raises:
            UserError: there is no finished run, its file is damaged, or a newer version wrote it.
        """
        folder = ResultFolder(path)
        if not folder.is_run:
            raise UserError(f"{path} holds no training run: runs are made by 'shoal train'.")
        config = load_recipe(str(folder.config.absolute()))
        if not folder.model.exists():
            raise UserError(f"{path} has not been trained to its end: resume it with 'shoal train --resume {path}'.")
        header, tensors = read_tensors(folder.model)
        device = compute_device()
        k = len(tensors.get("centers", ())) if config.n_clusters == "auto" else config.n_clusters
        config = replace(config, n_clusters=k)
        with preserve_rng(device):
            method = build(config.method, config.backbone, k, torch.Generator(device))
        try:
            centers = tensors.pop("centers").to(device)
            method.load_state_dict({name.removeprefix("method."): value for name, value in tensors.items()})
            size, images_digest = tuple(header["size"]), header["images"]
            ranges = {kind: (float(low), float(high)) for kind, (low, high) in header.get("ranges", BEFORE).items()}
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            if plugin := plugins_of(config).get(config.method.name):
                raise UserError(
                    f"{folder.model} does not fit the method {config.method.name!r} as {plugin} has it now: give the "
                    "version that it was trained with, or train again."
                ) from error
            raise damaged(folder.model, error) from error
        warn_of_changed_plugins(config, header.get("plugins", {}), folder.model)
        return cls(config, method.to(device).eval(), centers, size, images_digest, ranges)
