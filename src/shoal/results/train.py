"""From a config to a finished run folder: what the command and the estimators share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from shoal import distributed, evaluation
from shoal.clustering import map_positions
from shoal.config import RunConfig, to_yaml
from shoal.data import load_images
from shoal.data.images import digest
from shoal.errors import UserError
from shoal.evaluation import Evaluation, Truth
from shoal.evaluation.calibration import confidences
from shoal.progress import Progress
from shoal.report import ReportData, write_report
from shoal.results.tables import write_assignments
from shoal.results.trained import Assignment, Trained
from shoal.training import Run, fit
from shoal.training.folder import RunFolder
from shoal.training.run import Watcher
from shoal.types import Clustering, Images


def start(config: RunConfig, path: Path, progress: Progress, images: Images | None = None) -> Run:
    """A new run in a folder of its own; the images are those the config names, unless they are at hand.

    Raises:
        UserError: the folder holds something already, or the images cannot be read or clustered as asked.
    """
    folder = RunFolder(path)
    if distributed.is_first():
        folder.check_free()
    images = images or _images(config, progress)
    run = Run(config, images, folder)
    if distributed.is_first():
        folder.create(config)
        if images.skipped:
            folder.write_skipped(images.skipped)
    return run


def reopen(path: Path, progress: Progress) -> Run:
    """The run in a folder, as it was when it last saved.

    Raises:
        UserError: there is no run, its state is damaged, or its images have changed.
    """
    folder, config = RunFolder.open(path)
    run = Run(config, _images(config, progress), folder)
    if distributed.is_first():
        folder.sweep()
    run.load()
    return run


def _images(config: RunConfig, progress: Progress) -> Images:
    with distributed.one_by_node():
        return load_images(config.data, progress=progress.counter("reading images"))


def train(run: Run, progress: Progress, watchers: Sequence[Watcher] = ()) -> tuple[Trained, Assignment]:
    """Train a run to its end and write what it found; other ranks than the first call ``fit`` alone.

    Raises:
        Interrupted: the run was asked to stop, and its state is saved.
        UserError: the loss is no longer finite, or the disk is full.
    """
    fit(run, progress, watchers)
    run.stop_if_asked()  # the state is saved from here on, and resuming writes what is missing
    trained = Trained.of(run)
    # A run that was done before has its centres but no longer its features; and a last E-step leaves out some images.
    if run.features is None or not run.images.clustered.all():
        assignment = trained.assign(run.images)
    else:
        assignment = trained.assign_features(run.features)
    trained.save(run.folder.model)
    run.stop_if_asked()
    write_assignments(assignment, run.images, run.folder.assignments)
    run.stop_if_asked()
    data = report(trained, run.images, assignment, run.folder)
    for watcher in watchers:
        watcher.result(data)
    run.stop_if_asked()
    return trained, assignment


def images_of(trained: Trained) -> Images:
    """The images a finished run was trained on.

    Raises:
        UserError: they cannot be read, or are no longer the same.
    """
    images = load_images(trained.config.data)
    if digest(images) != trained.images_digest:
        raise UserError(
            f"the images in {trained.config.data.path} have changed since the run was trained: bring them back, or use "
            "'shoal predict' for new ones."
        )
    return images


def report(trained: Trained, images: Images, assignment: Assignment, folder: RunFolder) -> ReportData:
    """Write ``report.html`` of a finished run, and say what it shows."""
    data = report_data(trained, images, assignment, folder)
    write_report(data, folder.report)
    return data


def report_data(trained: Trained, images: Images, assignment: Assignment, folder: RunFolder) -> ReportData:
    """What a report of a finished run shows."""
    config = trained.config
    features, clusters, centers = assignment.features.cpu(), assignment.clusters.cpu(), trained.centers.cpu()
    return ReportData(
        title=folder.path.resolve().name,
        command=f"shoal train {shlex.quote(str(folder.config.absolute()))}",
        config_yaml=to_yaml(config),
        metrics=folder.read_metrics(),
        images=replace(images, pixels=images.pixels.cpu()),
        features=features,
        clustering=Clustering(clusters, centers, assignment.distances.cpu()),
        confidences=confidences(features, centers),
        positions=map_positions(features, metric="cosine", seed=config.seed),
        map_method="UMAP",
        seed=config.seed,
        sizes=torch.bincount(clusters, minlength=len(centers)),
        n_images=len(images),
        evaluation=Evaluation.load(folder.evaluation),
    )


def evaluate(trained: Trained, images: Images, *, knn: bool = False, linear: bool = False) -> Evaluation:
    """All figures of a finished run on its images, plain methods beside it.

    ``knn`` and ``linear`` ask for those of the backbone's features as well, which takes another pass over the images.

    Raises:
        UserError: a figure needs labels and there are none, or features are NaN.
    """
    truth = Truth.of(images)
    remedy = "give each class a subfolder of its own, or the table a label column"
    truth.check_labelled(knn=knn, linear=linear, remedy=remedy)
    assignment = trained.assign(images)
    by_head = trained.method.head_centers() is not None
    represented = trained.represent(images) if knn or linear or by_head else None
    # As in an E-step: images that take no part in the clustering are in no cluster when it is measured.
    clusters = assignment.clusters.where(truth.clustered.to(assignment.clusters.device), -1)
    clustering = Clustering(clusters, trained.centers, assignment.distances)
    found = evaluation.evaluate(
        truth,
        assignment.features,
        clustering,
        trained.config.seed,
        by_head=by_head,
        represented=represented,
        knn=knn,
        linear=linear,
    )
    baselines = evaluation.plain_baselines(
        truth,
        represented if by_head and represented is not None else assignment.features,
        clustering,
        trained.config.seed,
        of="backbone" if by_head else "features",
        pixels=images.pixels,
    )
    return replace(found, baselines=baselines)
