"""What is clustered: features of images, embedded now or earlier, or features that somebody else made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal.clustering.rows import Metric
from shoal.data import find_source, resolve_spec, to_images
from shoal.data.listing import Listing
from shoal.data.reading import skip_note
from shoal.data.sources.array import map_npy, read_features
from shoal.errors import UserError
from shoal.features import DEFAULT_BACKBONE, Embedded, EncoderSpec, embed, load_encoder, open_embedded
from shoal.files import real
from shoal.progress import Progress
from shoal.results.cluster_folder import ClusterFolder
from shoal.results.clustered import Clustered
from shoal.training.folder import RunFolder

PIXELS = "digits"
"""The data set whose pixels are taken for features: it is built in, and its images are small."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Features (n, d) and the name of each row; ``embedded`` says more where they were made of images."""

    features: Float[Tensor, "n d"]
    ids: Sequence[str]
    what: str
    """What a row is, in the plural."""
    source: str | list[str]
    """Where they come from: what ``find_source`` takes."""
    embedded: Embedded | None = None
    features_at: str = ""
    """The folder of the embedding."""
    listing: Listing | None = None
    """Where the images can be read again."""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def targets(self) -> Int64[Tensor, "n"]:
        """True classes, for scores and tables alone; -1 for none."""
        return torch.full((len(self),), -1) if self.embedded is None else self.embedded.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return () if self.embedded is None else self.embedded.classes


def read_rows(
    name: str, config: EncoderConfig, metric: Metric, folder: ClusterFolder, *, strict: bool, progress: Progress
) -> Rows:
    """Features of whatever a user points at; images are embedded into the folder, or on from where that was stopped.

    Raises:
        UserError: there is nothing that can be clustered, or no network to embed it with.
    """
    path = Path(name)
    if name == PIXELS and not path.exists():
        return _given(to_images(name).pixels[:, 0].flatten(1).float() / 255, "rows, the pixels of the digits", name)
    if path.is_dir() and ClusterFolder(path).is_clustered:
        return _again(path)
    if path.suffix.lower() == ".npy" and not _holds_images(path):
        return _given(read_features(path, cosine=metric == "cosine"), "rows", str(path.resolve()))
    source = find_source(name)
    listing = source.listing()  # what is wrong with the images is told before anything is downloaded
    encoder = load_encoder(config.spec())
    embedded = embed(source, encoder, folder.features, strict=strict, progress=progress.counter("embedding images"))
    if embedded.skipped:
        progress.warn(skip_note(embedded.skipped, len(embedded.ids)))
    # A list on the standard input is read once; what it named is found again by these names.
    origin = [str(file) for file in source.files] if name == "-" else resolve_spec(name)
    features_at = str(folder.features.resolve())
    return Rows(embedded.features, embedded.ids, "images", origin, embedded, features_at, listing)


def _again(path: Path) -> Rows:
    """The rows of an earlier clustering."""
    folder, clustered = ClusterFolder(path), Clustered.load(path)
    if clustered.encoder is None:
        assert isinstance(clustered.source, str)
        return read_rows(clustered.source, EncoderConfig(), "euclidean", folder, strict=False, progress=Progress())
    embedded, listing = same_images(clustered)
    return Rows(embedded.features, embedded.ids, "images", clustered.source, embedded, clustered.features_at, listing)


def same_images(clustered: Clustered) -> tuple[Embedded, Listing]:
    """The embedded images of a clustering, and where they can be read again.

    Raises:
        UserError: the features or the images are gone, or there are others where they were.
    """
    embedded, listing = open_embedded(Path(clustered.features_at)), find_source(clustered.source).listing()
    rows, n = embedded.rows.tolist(), len(listing.ids)
    # A list of files is what it was; only its names may have been shorter in the folder where it was given.
    given = isinstance(clustered.source, list)
    if any(row >= n or (not given and listing.ids[row] != id_) for row, id_ in zip(rows, embedded.ids, strict=True)):
        raise UserError(f"the images of {clustered.source} are others than those that were embedded: cluster anew.")
    return embedded, listing


def _given(features: Float[Tensor, "n d"], what: str, source: str) -> Rows:
    return Rows(features, [str(row) for row in range(len(features))], what, source)


def _holds_images(path: Path) -> bool:
    try:
        return map_npy(path).ndim > 2
    except UserError:
        return False


@dataclass(frozen=True)
class EncoderConfig:
    """The network whose features are clustered; it is not trained."""

    name: str = DEFAULT_BACKBONE
    """A timm model, or the folder of a finished run of 'shoal train'."""
    weights: Path | None = None
    """Its weights, a .safetensors file; by default timm's own, which are downloaded once."""

    def spec(self) -> EncoderSpec:
        """What builds the encoder, whatever the working folder is by then."""
        if RunFolder(Path(self.name)).config.is_file():
            return EncoderSpec("run", str(real(self.name)))
        return EncoderSpec("timm", self.name, str(real(self.weights)) if self.weights else "")
