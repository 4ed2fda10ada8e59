"""What is clustered: features of images, computed now or earlier, or features from a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal.clustering.rows import Metric, default_metric
from shoal.data import find_source, read_pixels, resolve_spec
from shoal.data.reading import skip_note
from shoal.data.sources.array import map_npy
from shoal.errors import UserError
from shoal.features import DEFAULT_BACKBONE, Embedded, EncoderSpec, embed, load_encoder
from shoal.files import real
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results.atlas import read_atlas
from shoal.results.result import PIXELS, Result, given_features

Pictures: TypeAlias = Callable[[Int64[Tensor, "m"], int], UInt8[Tensor, "m 3 h w"]]
"""Reads the images of some rows, at most so many pixels wide if that saves anything."""


@dataclass(frozen=True)
class EncoderConfig:
    """The network whose features are clustered; it is not trained."""

    name: str = DEFAULT_BACKBONE
    """A timm model, or the folder of a finished run of 'shoal train'."""
    weights: Path | None = None
    """Its weights, a .safetensors file; by default timm's own, which are downloaded once."""

    def spec(self) -> EncoderSpec:
        """The spec of the encoder, with absolute paths."""
        if ResultFolder(Path(self.name)).is_run:
            return EncoderSpec("run", str(real(self.name)))
        return EncoderSpec("timm", self.name, str(real(self.weights)) if self.weights else "")


@dataclass(frozen=True, eq=False)
class Inputs:
    """Features (n, d) and the name of each row; what is known of images beside them is in ``embedded``."""

    features: Float[Tensor, "n d"]
    ids: Sequence[str]
    what: str
    """What the rows are, for messages."""
    source: str | list[str]
    """Path of the images or the features: what ``find_source`` takes."""
    root: str = ""
    """Folder with the files of a named data set, if it is not among the downloads."""
    embedded: Embedded | None = None
    """None where the features were given and not made of images."""
    encoder: EncoderSpec | None = None
    """What made the features of images."""
    features_at: str = ""
    """The folder of ``embedded``."""
    pictures: Pictures | None = None
    """Reads the images again; None where there are none."""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def targets(self) -> Int64[Tensor, "n"]:
        """True classes, for scores and the label column alone; -1 for none."""
        return torch.full((len(self),), -1) if self.embedded is None else self.embedded.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return () if self.embedded is None else self.embedded.classes


def read_inputs(
    name: str,
    config: EncoderConfig,
    metric: Metric | None,
    folder: ResultFolder,
    *,
    fewest: int = 1,
    strict: bool,
    progress: Progress,
) -> Inputs:
    """Features of whatever ``name`` leads to; images are embedded into the folder, resuming an interrupted embedding.

    Raises:
        UserError: there is nothing that can be clustered, fewer than ``fewest`` images, or no network to embed with.
    """
    path = Path(name)
    made = name == PIXELS or path.suffix.lower() == ".npy" or ResultFolder(path).is_finished
    if made and config != EncoderConfig() and not (path.exists() and _holds_images(path)):
        raise UserError(f"{name} has features already: leave out --backbone.name and --backbone.weights.")
    if name == PIXELS and not path.exists():
        return _given(given_features(name), name)
    if path.is_dir() and ResultFolder(path).is_finished:
        return of_result(Result.load(path))
    if path.suffix.lower() == ".npy" and not _holds_images(path):
        columns = map_npy(path).shape[-1:]
        cosine = (metric or default_metric(*columns or (1,))) == "cosine"
        return _given(given_features(str(path), cosine=cosine), str(path.resolve()))
    source = find_source(name)
    listing = source.listing()  # what is wrong with the images is told before anything is downloaded
    if len(listing.ids) < fewest:
        raise UserError(f"{len(listing.ids)} images are fewer than the {fewest} clusters asked for: lower -k.")
    encoder = load_encoder(config.spec())
    counter = progress.counter("embedding images")
    embedded = embed(source, encoder, folder.features, strict=strict, progress=counter)
    if embedded.skipped:
        progress.warn(skip_note(embedded.skipped, len(embedded.ids)))
    # A list on the standard input is read once; what it named is found again by these names.
    origin = [str(file) for file in source.files] if name == "-" else resolve_spec(name)

    def pictures(index: Int64[Tensor, "m"], edge: int) -> UInt8[Tensor, "m 3 h w"]:
        return read_pixels(listing, embedded.rows[index].tolist(), edge)

    features_at = str(folder.features.resolve())
    return Inputs(embedded.features, embedded.ids, "images", origin, "", embedded, embedded.spec, features_at, pictures)


def of_result(result: Result) -> Inputs:
    """What a finished result clustered, to be clustered again."""
    if result.encoder is None:
        assert isinstance(result.source, str)
        return _given(result.features, result.source)
    embedded = result.embedded
    assert embedded is not None

    def pictures(index: Int64[Tensor, "m"], edge: int) -> UInt8[Tensor, "m 3 h w"]:
        ids, kept = read_atlas(result.folder.atlas)
        if len(ids) == len(embedded.ids):  # the thumbnails of all, so that no image is read again
            return kept[index]
        return read_pixels(result.listing, [result.rows[i] for i in index.tolist()], edge)

    return Inputs(
        embedded.features,
        embedded.ids,
        "images",
        result.source,
        result.root,
        embedded,
        result.encoder,
        str(result.features_at),
        pictures,
    )


def _given(features: Float[Tensor, "n d"], source: str) -> Inputs:
    what = "rows, the pixels of the digits" if source == PIXELS else "rows"
    return Inputs(features, [str(row) for row in range(len(features))], what, source)


def _holds_images(path: Path) -> bool:
    try:
        return map_npy(path).ndim > 2
    except UserError:
        return False
