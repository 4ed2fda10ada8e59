"""What is clustered: features of images, computed now or earlier, or features from a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal import distributed, job
from shoal.clustering.rows import Metric, default_metric
from shoal.data import Source, find_source, read_pixels, resolve_spec
from shoal.data.greys import chosen_ranges, describe
from shoal.data.listing import Names, others_of
from shoal.data.sources.array import map_npy
from shoal.data.sources.folder import is_pattern
from shoal.data.sources.joined import places_in
from shoal.data.sources.video import check_has_videos
from shoal.data.unread import count_kinds, reading_notes
from shoal.data.urls import private
from shoal.errors import UserError
from shoal.features import Embedded, EncoderSpec, open_embedded
from shoal.folder import ResultFolder
from shoal.progress import Progress, counted
from shoal.results.atlas import read_atlas
from shoal.results.changes import changes_of, update_hint
from shoal.results.chosen import chosen_networks
from shoal.results.networks import embed_first, share_networks
from shoal.results.result import PIXELS, Result, given_features
from shoal.results.tables import as_utf8, read_csv, unread
from shoal.types import Images, Others

_COMPARED = 100
"""Rows of features by which processes see that they have the same."""

Pictures: TypeAlias = Callable[[Int64[Tensor, "m"], int], UInt8[Tensor, "m 3 h w"] | list[bytes]]
"""Reads the images of some rows, at most this many pixels wide if that saves anything, or their thumbnails."""


@dataclass(frozen=True)
class PixelConfig:
    """How images are read."""

    range: tuple[float, float] | None = None
    """Values of more than 8 bits that become black and white; None takes what the files state, else measures the whole
    source."""
    every: str = ""
    """How often to take a frame of each video: 2s, 500ms, 1min, or scene for one frame of each scene; by default videos
    are not read."""


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
    others: Others = field(default_factory=Others)
    """What there is beside the images."""
    joined: tuple[tuple[str, str], ...] = ()
    """Sources that have joined the first, as ``Result`` has them."""
    every: str = ""
    """How often a frame of a video was taken, as ``Result`` has it."""
    earlier: Result | None = None
    """The result whose very features are clustered again, if there is one."""

    @classmethod
    def of_images(
        cls,
        embedded: Embedded,
        features_at: Path,
        encoder: EncoderSpec | None,
        pictures: Pictures,
        source: str | list[str],
        others: Others | None = None,
    ) -> Inputs:
        """Images that were embedded, from a source without a root, other sources and videos."""
        return cls(
            embedded.features,
            embedded.ids,
            "images",
            source,
            embedded=embedded,
            encoder=encoder,
            features_at=str(features_at),
            pictures=pictures,
            others=others or Others(),
        )

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
    specs: Sequence[EncoderSpec] | None,
    metric: Metric | None,
    folder: ResultFolder,
    *,
    fewest: int = 1,
    pixels: PixelConfig | None = None,
    strict: bool,
    progress: Progress,
) -> Inputs:
    """Features of whatever ``name`` leads to; images are embedded into the folder, resuming an interrupted embedding.

    Args:
        name: of images or features, as ``shoal cluster`` takes it.
        specs: the networks; None takes those of an earlier result, and the default for other images.
        metric: of the distances; None for what suits the features.
        folder: of the new result.
        fewest: how many images there must be.
        pixels: how images are read.
        strict: whether to fail on the first image that cannot be read.
        progress: reports progress.

    Raises:
        UserError: there is nothing that can be clustered, fewer than ``fewest`` images, or no network to embed with.
    """
    pixels = pixels or PixelConfig()
    path, ranges, every = Path(name), chosen_ranges(pixels.range), pixels.every
    there = os.path.lexists(path)  # path.exists() fails on a pattern that is longer than a name may be
    with job.first_first():  # an update that is whole is put in place once
        result = Result.load(path) if there and path.is_dir() and ResultFolder(path).is_finished else None
    is_array = path.suffix.lower() == ".npy" and not (path.is_dir() if there else is_pattern(name))
    is_rows = is_array and not _holds_images(path)
    made = name == PIXELS or is_rows or result is not None
    of_images = result is not None and result.encoder is not None
    if made and ((specs and not of_images) or ranges):
        names = "" if of_images else "--backbone.name, --backbone.weights and "
        raise UserError(f"{name} has features already: leave out {names}--data.range.")
    if made and every:
        raise UserError(f"{name} has features already, or those of an earlier result: leave out --every.")
    if name == PIXELS and not there:
        return _given(given_features(name), name)
    if result is not None:
        found = by_other_networks(result, specs, folder, strict=strict, progress=progress) if specs else None
        return _with_others(found or of_result(result, folder, progress), ResultFolder(path))
    if is_rows:
        columns = map_npy(path).shape[-1:]
        cosine = (metric or default_metric(*columns or (1,))) == "cosine"
        return _given(given_features(str(path), cosine=cosine), str(path.resolve()))
    told = progress.counter("looking through videos, MB") if every else None
    with contextlib.nullcontext() if there else job.local_first():  # what is downloaded is downloaded once
        source = find_source(name, every=every, progress=told)
    check_has_videos(source, every, name)
    if name == "-" and any(private(place) != place for place in source.places):
        progress.warn(
            "addresses are kept without what follows '?', where keys may stand: 'sort', 'export' and 'update' cannot "
            "ask for these images again. If they should, give a table of the addresses, a .csv file."
        )
    listing = source.listing()  # reports what is wrong with the images before anything is downloaded
    if len(listing.ids) < fewest:
        raise too_few(len(listing.ids), "images", fewest)
    embedded = embed_first(
        source, specs or chosen_networks(None, None), folder.features, ranges=ranges, strict=strict, progress=progress
    )
    _tell_read(embedded, progress)
    if shown := describe(embedded.ranges):
        progress.say(f"range        {shown}; --data.range LOW HIGH sets another")
    # A list on the standard input is read once; what it named is found again by these names.
    origin = places_in(source) if name == "-" else resolve_spec(name)
    return replace(_of_images(source, embedded, folder, origin), every=every)


def too_few(n: int, what: str, n_clusters: int) -> UserError:
    """The error for fewer images or rows than clusters."""
    many = what.partition(",")[0]  # what the rows are does not matter here
    found = counted(n, f"{many.removesuffix('s')} is", f"{many} are")
    return UserError(f"{found} fewer than the {counted(n_clusters, 'cluster')} asked for: lower -k.")


def pictures_of(images: Images) -> Pictures:
    """Images in memory by their rows, at their own size."""

    def pictures(index: Int64[Tensor, "m"], _edge: int) -> UInt8[Tensor, "m 3 h w"]:
        return images.pixels[index.to(images.pixels.device)].cpu()

    return pictures


def metric_for(inputs: Inputs) -> Metric:
    """The metric of features for which none is asked; joined ones may have few columns, and are not measurements."""
    joined = inputs.encoder is not None and inputs.encoder.parts
    return "cosine" if joined else default_metric(inputs.features.shape[1])


def _tell_read(embedded: Embedded, progress: Progress) -> None:
    """Warn of images that were not read as they are."""
    for line in reading_notes(embedded.skipped, embedded.notes, len(embedded.ids)):
        progress.warn(line)


def _of_images(source: Source, embedded: Embedded, folder: ResultFolder, origin: str | list[str]) -> Inputs:
    """Inputs whose images are read again where a picture of them is wanted."""
    listing = source.listing()

    def pictures(index: Int64[Tensor, "m"], edge: int) -> UInt8[Tensor, "m 3 h w"]:
        return read_pixels(listing, embedded.rows[index].tolist(), edge, embedded.ranges)

    features_at = folder.features.resolve()
    return Inputs.of_images(embedded, features_at, embedded.spec, pictures, origin, others_of(source))


def by_other_networks(
    result: Result, specs: Sequence[EncoderSpec], folder: ResultFolder, *, strict: bool, progress: Progress
) -> Inputs:
    """The images of a finished result by a list of networks: features that the result has are not computed again.

    Images that have come since are taken in if the images are read at all, which is where a network is not among those
    of the result.

    Raises:
        UserError: the images are gone and would have to be read, or as ``read_inputs``.
    """
    assert result.embedded is not None
    assert result.encoder is not None
    own = [next((theirs for theirs in result.encoder.networks if _means(spec, theirs)), None) for spec in specs]
    known = [spec for spec in own if spec is not None]
    if len(known) == len(specs):
        return of_result(result, folder, progress, known)
    wanted = [theirs or spec for spec, theirs in zip(specs, own, strict=True)]
    ranges = result.embedded.ranges
    embedded = embed_first(
        result.images, wanted, folder.features, known=result, ranges=ranges, strict=strict, progress=progress
    )
    _tell_read(embedded, progress)
    inputs = _of_images(result.images, embedded, folder, result.source)
    return replace(inputs, root=result.root, joined=result.joined, every=result.every)


def _means(asked: EncoderSpec, theirs: EncoderSpec) -> bool:
    """Whether a network of a result is the one asked for; without weights, its own are meant."""
    return (asked.kind, asked.name) == (theirs.kind, theirs.name) and asked.weights in ("", theirs.weights)


def of_result(
    result: Result, folder: ResultFolder, progress: Progress, specs: Sequence[EncoderSpec] | None = None
) -> Inputs:
    """What a finished result clustered, to be clustered again into a folder that has the features of its own.

    Images that are known to be gone or changed are left out. Without access to any image all are taken: features and
    thumbnails are kept.

    Args:
        result: to be clustered again.
        folder: of the new result.
        progress: reports what has become of the images.
        specs: those of its networks whose features are wanted; by default all.

    Raises:
        UserError: the features are damaged, or the folder holds others.
    """
    if result.encoder is None:
        assert isinstance(result.source, str)
        return replace(_given(result.features, result.source), earlier=result)
    embedded, ids = result.embedded, result.ids
    assert embedded is not None
    [unchanged] = job.tensors_of_first(lambda: [torch.from_numpy(_unchanged(result, progress))])
    index, own_specs = unchanged.numpy(), specs or result.encoder.networks
    job.of_first(lambda: share_networks(result, own_specs, folder.features, index))
    own = open_embedded(folder.features)
    encoder = own.spec if len(own_specs) > 1 else own_specs[0]  # features that a run has itself do not name it

    def pictures(wanted: Int64[Tensor, "m"], edge: int) -> UInt8[Tensor, "m 3 h w"]:
        known, kept = read_atlas(result.folder.atlas)
        rows = torch.from_numpy(index)[wanted]
        if len(known) == len(ids):  # the thumbnails of all, so that no image is read again
            return kept[rows]
        return read_pixels(result.listing, result.matched.rows[rows.numpy()].tolist(), edge, embedded.ranges)

    source = result.source
    if isinstance(source, list):  # of what was listed, the images left out are no longer
        left_out = set(np.delete(embedded.rows.numpy(), index).tolist())
        source = [file for row, file in enumerate(source) if row not in left_out]
    inputs = Inputs.of_images(own, folder.features.resolve(), encoder, pictures, source)
    earlier = result if tuple(own_specs) == result.encoder.networks else None
    return replace(inputs, root=result.root, joined=result.joined, every=result.every, earlier=earlier)


def _with_others(inputs: Inputs, folder: ResultFolder) -> Inputs:
    """Inputs of a result, with what its table says there was beside the images."""
    names = set(map(as_utf8, unread(inputs.embedded) if inputs.embedded else ()))
    reasons = {name: reason for name, reason in read_csv(folder.skipped, "id", "reason") if name not in names}
    return replace(inputs, others=Others(count_kinds(reasons, Others()), reasons))


def _unchanged(result: Result, progress: Progress) -> Int64[np.ndarray, "m"]:
    """Images that are there and the same, or all if none can be found."""
    everything = np.arange(len(result.ids))
    if not result.is_quickly_matched:
        return everything
    try:
        found = result.matched.there
    except UserError:  # their drive is away, or they were arrays
        return everything
    if not len(found):
        return everything
    for line in changes_of(result):
        progress.warn(line.rstrip("."))
    if len(found) < len(everything):
        progress.warn(f"{counted(len(found), 'image is', 'images are')} clustered again; {update_hint(result)}")
    return found


def _given(features: Float[Tensor, "n d"], source: str) -> Inputs:
    """Inputs that are rows of numbers.

    Raises:
        UserError: the processes of a job have different ones.
    """
    some = features[:: max(1, len(features) // _COMPARED)].double()
    job.check_agreed(
        f"{tuple(features.shape)} {features.dtype} {some.tolist() if distributed.world_size() > 1 else ''}",
        lambda: (
            f"{job.this_process()} has other features in {source} than the first process: give all machines the "
            "same file."
        ),
    )
    what = "rows, the pixels of the digits" if source == PIXELS else "rows"
    return Inputs(features, Names(map(str, range(len(features)))), what, source)


def _holds_images(path: Path) -> bool:
    """Whether a path is a ``.npy`` file of more than rows of numbers.

    Raises:
        UserError: it is one that cannot be read.
    """
    return path.suffix.lower() == ".npy" and os.path.isfile(path) and map_npy(path).ndim > 2  # noqa: PTH113
