"""The networks of a result, be it one or several that are joined: more images embedded, and the features of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from shoal import job
from shoal.data import Source
from shoal.data.greys import Ranges
from shoal.device import in_words
from shoal.errors import UserError
from shoal.features import Embedded, Encoder, EncoderSpec, embed, load_encoder, open_embedded, share_features
from shoal.features.joined import (
    Earlier,
    adopt,
    embed_networks,
    folder_for,
    folders_of,
    join,
    load_joined,
    networks_of,
    settle,
)
from shoal.features.joining import Joining
from shoal.features.matching import Matched, known_rows
from shoal.progress import Progress
from shoal.results.result import Result


@dataclass(frozen=True, eq=False)
class NetworkFeatures:
    """Features that one of the networks of a result made of its n images."""

    spec: EncoderSpec
    features: Float[Tensor, "m d"]
    """Float32, memory-mapped."""
    rows: Int64[Tensor, "n"] | None
    """The row of each image; None: they are the rows."""

    def __len__(self) -> int:
        return len(self.features if self.rows is None else self.rows)

    def take(self, index: Int64[Tensor, "b"] | slice) -> Float[Tensor, "b d"]:
        """The features of some images."""
        return self.features[index if self.rows is None else self.rows[index]]


def features_by(result: Result, spec: EncoderSpec) -> NetworkFeatures:
    """What one of the networks of a result made of its images.

    Raises:
        UserError: the features are gone or damaged.
    """
    assert result.encoder is not None
    if not result.encoder.parts:
        return NetworkFeatures(spec, result.features, None)
    folder = _folder(result, spec)
    kept, joint = open_embedded(folder), result.embedded
    assert joint is not None
    if len(kept.rows) == len(joint.rows):
        return NetworkFeatures(spec, kept.features, None)
    return NetworkFeatures(spec, kept.features, torch.searchsorted(kept.rows, joint.rows))


def network_by(result: Result, spec: EncoderSpec) -> Encoder:
    """One of the networks of a result.

    Raises:
        UserError: its weights are gone or have changed.
    """
    try:
        return load_encoder(spec)
    except UserError as error:
        raise _unusable(result, error) from error


def module_of(result: Result) -> tuple[nn.Module, list[Encoder]]:
    """What makes the features of a result, as a module to export, with an encoder for each of its inputs.

    Raises:
        UserError: features were clustered, or weights are gone or have changed.
    """
    if result.encoder is None or not result.encoder.parts:
        return result.network.module, [result.network]
    try:
        return load_joined(result.encoder, result.features_at)
    except UserError as error:
        raise _unusable(result, error) from error


def _unusable(result: Result, error: UserError) -> UserError:
    return UserError(f"the network that made the features of {result.folder.path} cannot be used: {error}")


def embed_first(
    source: Source,
    specs: Sequence[EncoderSpec],
    folder: Path,
    *,
    known: Result | None = None,
    ranges: Ranges | None,
    strict: bool,
    progress: Progress,
) -> Embedded:
    """Embed images for a new result; what an unfinished command has left is not computed again.

    Args:
        source: the images.
        specs: the networks.
        folder: where the features go; those of several networks lie beside it.
        known: a result some of whose networks take part.
        ranges: what becomes black and white.
        strict: whether to fail on the first image that cannot be read.
        progress: reports progress.

    Raises:
        UserError: as ``embed``; a network cannot be used, which is found before the first image is read.
    """
    if len(specs) == 1:
        with job.local_first():  # it downloads what the others find
            encoder = load_encoder(specs[0])
        job.of_first(lambda: adopt(folder, (encoder.spec,)))
        counter = progress.counter("embedding images")
        progress.say(f"device       {in_words(encoder.device, encoder.precision)}")
        return embed(source, encoder, folder, ranges=ranges, strict=strict, progress=counter)
    with job.local_first():
        settled = settle(specs)
    job.of_first(lambda: adopt(folder, settled))
    earlier = None if known is None else Earlier(known.features_at)
    return embed_networks(source, settled, folder, earlier=earlier, ranges=ranges, strict=strict, progress=progress)


def embed_more(
    result: Result,
    source: Source,
    folder: Path,
    *,
    matched: Matched | None = None,
    ranges: Ranges | None = None,
    strict: bool,
    progress: Progress,
) -> Embedded:
    """Embed images as those of a result were.

    Args:
        result: of images.
        source: the images.
        folder: where their features go; those of several networks lie beside it.
        matched: where the images of the result are in the source; their features are taken over.
        ranges: what becomes black and white.
        strict: whether to fail on the first image that cannot be read.
        progress: reports progress.

    Raises:
        UserError: as ``embed``; a network cannot be used any more.
    """
    assert result.encoder is not None
    parts = result.encoder.parts
    if not parts:
        earlier = None if matched is None else (result.features_at, matched)
        own = matched is not None and result.embedded is not None and result.embedded.of_pixels
        counter = progress.counter("embedding images")
        return embed(
            source, result.network, folder, earlier=earlier, own=own, ranges=ranges, strict=strict, progress=counter
        )
    try:
        joining = Joining.load(networks_of(result.features_at), result.encoder)
        settle(parts)
    except UserError as error:
        raise _unusable(result, error) from error
    before = None
    if matched is not None:
        rows = known_rows(matched, len(source.listing().ids))
        before = Earlier(result.features_at, result.embedded, rows)
    return embed_networks(
        source,
        parts,
        folder,
        joining=joining,
        earlier=before,
        ranges=ranges,
        strict=strict,
        progress=progress,
    )


def share_networks(result: Result, specs: Sequence[EncoderSpec], target: Path, index: Int64[np.ndarray, "m"]) -> None:
    """Give another folder the features of some images of a result by some of its networks, which need not be there.

    Args:
        result: of images.
        specs: of its networks.
        target: of the features; those of several networks go beside it.
        index: images, ascending.

    Raises:
        UserError: features are gone or damaged, or the target holds others or cannot be written.
    """
    embedded = result.embedded
    assert embedded is not None
    assert result.encoder is not None
    parts = result.encoder.networks
    if len(specs) == 1 == len(parts):
        share_features(result.features_at, target, index)
        return
    rows = embedded.rows.numpy()
    kept, left_out = rows[index], np.delete(rows, index)
    folders = [_folder(result, spec) for spec in specs]
    if len(specs) == 1:
        own = open_embedded(folders[0]).rows.numpy()
        share_features(folders[0], target, np.searchsorted(own, kept))
        return
    shared = [folder_for(spec, networks_of(target)) for spec in specs]
    for folder, own_folder in zip(folders, shared, strict=True):
        own = open_embedded(folder).rows.numpy()
        share_features(folder, own_folder, np.flatnonzero(~np.isin(own, left_out)))
    if len(specs) == len(parts) and all(map(EncoderSpec.is_same_as, specs, parts)):
        Joining.load(networks_of(result.features_at), result.encoder).save(networks_of(target))
        share_features(result.features_at, target, index)
    else:
        join(shared, specs, target, only=kept - np.searchsorted(left_out, kept))  # as the shorter listing counts them


def _folder(result: Result, spec: EncoderSpec) -> Path:
    """The folder of the features by one of the networks.

    Raises:
        UserError: it is gone.
    """
    found = next((path for path, theirs in folders_of(result.features_at) if theirs.is_same_as(spec)), None)
    if found is None:
        where = networks_of(result.features_at)
        raise UserError(
            f"the features of {spec.name} are gone from {where}: bring them back, or cluster the images again."
        )
    return found
