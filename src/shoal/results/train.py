"""A training run from its config, or resumed from its folder, to its result: for the command and the estimators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from shoal import distributed, job
from shoal.clustering import KMeans
from shoal.clustering.kmeans import assign
from shoal.clustering.occupied import renumbered
from shoal.config import RunConfig, load_recipe, to_yaml
from shoal.data import IN_MEMORY, DataConfig, Listing, find_source, load_images
from shoal.data.equal import equal_groups, first_of_each
from shoal.data.greys import describe
from shoal.data.links import other_names
from shoal.data.rgb import to_pillow
from shoal.data.sketch import sketch
from shoal.data.sources.folder import is_pattern
from shoal.data.sources.joined import places_in
from shoal.errors import UserError
from shoal.features import Embedded, EncoderSpec, open_embedded, remove_features, write_features, write_links
from shoal.features.embedded import Header
from shoal.features.matching import pixel_fingerprint
from shoal.features.start import resolve_weights, start_from_weights
from shoal.features.weights import file_digest
from shoal.files import atomic_write
from shoal.folder import ResultFolder
from shoal.progress import Progress
from shoal.results.finish import Outcome, finish
from shoal.results.inputs import Inputs, pictures_of
from shoal.results.page import report_data
from shoal.results.result import Result
from shoal.results.tables import unread, write_skipped
from shoal.training import Run, fit
from shoal.training.digests import config_digest
from shoal.training.run import Watcher
from shoal.training.settings import use_of_clusters
from shoal.training.trained import Trained
from shoal.types import Images


def start(config: RunConfig, path: Path, progress: Progress, images: Images | None = None) -> Run:
    """A new run in a folder of its own, on the images that the config names unless they are given.

    Raises:
        UserError: the folder holds something already, or the images cannot be read or clustered as asked.
    """
    folder = ResultFolder(path)
    if distributed.is_first():
        folder.check_free()
    images = images or _images(config, progress)
    weights = resolve_weights(config.backbone.weights)
    config = replace(config, backbone=replace(config.backbone, weights=weights))
    run = Run(config, images, folder)
    _begin(run, progress)
    if distributed.is_first():
        with folder.alone():
            folder.check_free()  # another process may have taken it while the images were read
            atomic_write(folder.config, to_yaml(config).encode())
            write_skipped(unread(images, images.others), folder.skipped)
    return run


def _begin(run: Run, progress: Progress) -> None:
    """Give a run that has not begun the weights that it starts from, and say what is not as one may expect.

    Raises:
        UserError: the weights cannot be read, or do not fit.
    """
    if run.config.backbone.weights:
        with job.local_first():  # the first downloads what the others find
            progress.say(start_from_weights(run.method, run.config.backbone))
    used, ever = use_of_clusters(run.config, run.steps_per_epoch)
    if used and distributed.is_first():
        if ever:
            progress.say(f"clusters     {used}")
        else:
            progress.warn(f"clusters are {used}")


def start_or_resume(config: RunConfig, path: Path, progress: Progress, images: Images) -> Run:
    """``start`` on given images, or the run that was interrupted in this folder, as it was when it last saved.

    Raises:
        UserError: as ``start``; or the interrupted run had other settings or images.
    """
    folder = ResultFolder(path)
    if not folder.is_run or folder.is_finished:
        return start(config, path, progress, images)
    kept = load_recipe(str(folder.config.absolute()))
    if config_digest(kept) != config_digest(config):
        raise UserError(
            f"{path} holds an interrupted run with other settings: use those in {folder.config} to resume it, or give "
            "another out."
        )
    return _resumed(Run(kept, images, folder), progress)


def reopen(path: Path, progress: Progress) -> Run:
    """The run in a folder, as it was when it last saved.

    Raises:
        UserError: there is no run, its state is damaged, or its images have changed.
    """
    folder = ResultFolder(path)
    if not folder.is_run:
        raise UserError(f"{path} holds no training run that could be resumed: runs are made by 'shoal train'.")
    if folder.is_finished and not folder.state.exists():
        raise UserError(f"{path} is a saved model without the state of its training: there is nothing to resume.")
    config = load_recipe(str(folder.config.absolute()))
    if config.data.path == IN_MEMORY:
        raise UserError(
            f"the images of {path} were given in Python, so it is resumed there: fit the same images with the same "
            f"settings and out={str(path)!r}."
        )
    return _resumed(Run(config, _images(config, progress), folder), progress)


def _resumed(run: Run, progress: Progress) -> Run:
    """A run that was built again, as it was when it last saved.

    Raises:
        UserError: its state is damaged or of other images, or it has not begun and its weights are gone.
    """
    folder = run.folder
    if not folder.state.exists():
        try:
            _begin(run, progress)
        except UserError as error:
            raise UserError(f"{error} The run in {folder.path} has not begun: it can be deleted as well.") from error
    run.load()
    return run


def _images(config: RunConfig, progress: Progress) -> Images:
    with job.local_first():
        images = load_images(config.data, progress=progress.counter("reading images"))
    if shown := describe(images.ranges):
        progress.say(f"range        {shown}; --data.range LOW HIGH sets another")
    return images


@dataclass(frozen=True, eq=False)
class Finished:
    """A run that is done: its network, the clusters that have images, and the features of its images."""

    trained: Trained
    clusterer: KMeans
    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]
    distances: Float[Tensor, "n"]


def train(run: Run, progress: Progress, watchers: Sequence[Watcher] = ()) -> tuple[Finished, Outcome]:
    """Train a run to its end and write the result; ranks other than the first call ``fit`` alone.

    Raises:
        Interrupted: the run was asked to stop, and its state is saved.
        UserError: the loss is no longer finite, or the disk is full.
    """
    fit(run, progress, watchers)
    run.stop_if_asked()  # the state is saved from here on, and resuming writes what is missing
    finished = finished_run(run)
    run.stop_if_asked()
    outcome = write_result(finished, run.images, run.folder)
    run.stop_if_asked()
    if watchers:
        data = report_data(Result.load(run.folder.path))
        for watcher in watchers:
            watcher.result(data)
    return finished, outcome


def finished_run(run: Run) -> Finished:
    """The outcome of a run; if it was resumed when already done, the images are embedded again."""
    trained = Trained.of(run)
    # A run that was resumed when done has no features, and a last E-step leaves out some images.
    known = run.features if run.images.clustered.all() else None
    features = trained.embed(run.images) if known is None else known.cpu()
    labels, distances, _ = assign(features, trained.centers.cpu(), "cosine")
    labels, occupied = renumbered(labels)
    trained = replace(trained, centers=trained.centers[occupied.to(trained.centers.device)])
    clusterer = KMeans.from_centers(trained.centers.cpu(), features, "cosine")
    return Finished(trained, clusterer, features, labels, distances)


def write_result(finished: Finished, images: Images, folder: ResultFolder) -> Outcome:
    """Write the network, the features and the clusters of a finished run into its folder.

    Raises:
        UserError: the folder cannot be written, or another process is changing it.
    """
    with folder.alone():
        finished.trained.save(folder.model)
        data = finished.trained.config.data
        source = _source_of(images, data)
        spec = EncoderSpec("run", str(folder.path.absolute()), digest=file_digest(folder.model))
        embedded = _kept_features(finished, images, folder, spec, source)
        inputs = Inputs.of_images(embedded, folder.features, spec, pictures_of(images), source, images.others)
        inputs = replace(inputs, root=data.root, every=data.every)
        return finish(_result_of(finished, images, folder, inputs), inputs, finished.labels)


def _source_of(images: Images, data: DataConfig) -> str | list[str]:
    """Where the images are found again: a list on the standard input is read once, so the files that it named."""
    if data.path != "-":
        return data.path
    listed = find_source(data.path, every=data.every)
    files = dict(zip(listed.listing().ids, places_in(listed), strict=True))
    return [files[name] for name in (*images.ids, *images.skipped)]  # as features are kept


def _result_of(finished: Finished, images: Images, folder: ResultFolder, inputs: Inputs) -> Result:
    trained = finished.trained
    return Result(
        folder=folder,
        method=trained.config.method.name,
        clusterer=finished.clusterer,
        centers=trained.centers.cpu(),
        metric="cosine",
        seed=trained.config.seed,
        source=inputs.source,
        root=inputs.root,
        every=inputs.every,
        features_at=folder.features.absolute(),
        encoder=inputs.encoder,
        by_head=trained.method.head_centers() is not None,
        asked=trained.n_clusters,
        flags={"held_out": images.held_out.cpu(), "clustered": images.clustered.cpu()},
    )


def _kept_features(
    finished: Finished, images: Images, folder: ResultFolder, spec: EncoderSpec, source: str | list[str]
) -> Embedded:
    """Keep the features of the images, replacing those of an earlier end of the run.

    Images that could not be read stand behind the others: the source may have changed since it was listed.
    """
    remove_features(folder.features)
    n, n_skipped = len(images), len(images.skipped)
    targets = np.concatenate([images.targets.cpu().numpy(), np.full(n_skipped, -1)])
    listing = Listing([*images.ids, *images.skipped], targets, images.classes, lambda: iter(()))
    header = Header(
        spec=replace(spec, name=""),
        n=n + n_skipped,
        n_features=finished.features.shape[1],
        batch_size=n,
        images=finished.trained.images_digest,
        classes=images.classes,
        pixels=finished.trained.size,
        ranges=images.ranges,
    )
    fingerprints = [pixel_fingerprint(image.cpu().numpy()) for image in images.pixels]
    write_features(
        folder.features,
        header,
        listing,
        finished.features,
        known=zip(fingerprints, map(_sketch, images.pixels), strict=True),
        stats=images.file_stats,
        skipped=dict(enumerate(images.skipped.values(), n)),
        notes={row: images.notes[name] for row, name in enumerate(images.ids) if name in images.notes},
    )
    write_links(folder.features, _links(images, fingerprints, source))
    return open_embedded(folder.features)


def _sketch(image: UInt8[Tensor, "3 h w"]) -> bytes:
    pixels = image.cpu().numpy()
    return sketch(to_pillow(pixels), pixels, pixels)


def _links(images: Images, fingerprints: Sequence[bytes], source: str | list[str]) -> Int64[np.ndarray, "m 2"]:
    """Rows that are other names of a file, and the row of that file; none where there are no files, or no more."""
    nothing = np.zeros((0, 2), np.int64)
    prints = torch.frombuffer(bytearray(b"".join(fingerprints)), dtype=torch.uint8).view(-1, 16)
    equal = [*equal_groups(first_of_each(prints))]
    if not equal or not (isinstance(source, list) or is_pattern(source) or Path(source).exists()):
        return nothing  # a data set by its name, or images given in Python
    try:
        listing = find_source(source).listing()
    except UserError:
        return nothing
    files = dict(zip(listing.ids, listing.files, strict=True)) if len(listing.files) else {}
    return other_names(lambda row: files.get(images.ids[row]), equal)
