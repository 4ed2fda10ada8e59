"""New images, or new rows of features, into the clusters of a result."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from shoal import distributed, job
from shoal.clustering.rows import Metric
from shoal.data import find_source
from shoal.data.listing import Names, others_of
from shoal.data.sources.others import in_words
from shoal.data.sources.video import check_has_videos
from shoal.data.unread import reading_notes
from shoal.errors import UserError
from shoal.features.embedded import FEATURES
from shoal.features.store import check_idle
from shoal.progress import Progress, counted
from shoal.results.merging import merge
from shoal.results.model import Model
from shoal.results.networks import embed_more
from shoal.results.result import Result, given_features
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import write_assignments

UNFINISHED = ".features"
"""Ends the name of the hidden folder beside a table that keeps features until the table is written."""


def predict(
    result: Result,
    name: str,
    out: Path,
    *,
    every: str = "",
    strict: bool,
    progress: Progress,
    merge_to: int | None = None,
) -> tuple[int, int] | None:
    """Write the cluster of each new image, or of each row of a ``.npy`` file where features were clustered.

    The processes of a job call it together and embed together; the first does the rest. Interrupted, the next call
    resumes: features are kept beside the table until it is written.

    Args:
        result: finished.
        name: of the images or features.
        out: the table.
        every: how often a frame of a video is taken; by default as for the result.
        strict: whether to fail on the first image that cannot be read.
        progress: reports progress.
        merge_to: number of clusters into which those of the result are merged first, as ``merge`` does it.

    Returns:
        How many there are, and how many of them belong nowhere; None in processes other than the first.

    Raises:
        UserError: they cannot be read, the network's weights have changed or are gone, or ``out`` cannot be written.
    """
    model, names = (result.model, result.names) if merge_to is None else (merge(result, merge_to)[1], {})
    if result.encoder is None:
        if not distributed.is_first():
            return None
        features = given_features(name, cosine=result.metric == "cosine")
        if features.shape[1] != result.centers.shape[1]:
            width = result.centers.shape[1]
            raise UserError(f"{name} has {features.shape[1]} features in a row, and {width} were clustered.")
        rows = Names(map(str, range(len(features))))
        found = _assigned(model, features, result.metric)
        write_assignments(found, rows, out, names=names)
        return len(features), int((found.labels < 0).sum())
    with contextlib.nullcontext() if os.path.lexists(name) else job.local_first():  # it downloads what the others find
        source = find_source(name, every=every or result.every)
    check_has_videos(source, every, name)
    with _folder_for_features(out) as folder:
        ranges = None if result.embedded is None else result.embedded.ranges
        embedded = embed_more(result, source, folder / "features", ranges=ranges, strict=strict, progress=progress)
        if not distributed.is_first():
            return None
        for line in reading_notes(embedded.skipped, embedded.notes, len(embedded.ids)):
            progress.warn(line)
        if others := others_of(source):
            n = counted(sum(others.counts.values()), "other file was", "other files were")
            progress.warn(f"{n} not read: {in_words(others.counts)}")
        found = _assigned(model, embedded.features, result.metric)
        targets, classes = embedded.targets, embedded.classes
        write_assignments(found, embedded.ids, out, names=names, targets=targets, classes=classes)
        return len(embedded.ids), int((found.labels < 0).sum())


@contextlib.contextmanager
def _folder_for_features(out: Path) -> Iterator[Path]:
    """Beside the table, until that is written: there all processes see it, and the same command finds it again."""
    folder = out.absolute().with_name(f".{out.name}{UNFINISHED}")
    try:
        yield folder
    except BaseException:
        if distributed.is_first() and not _holds_features(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if distributed.is_first():
        shutil.rmtree(folder, ignore_errors=True)


def _holds_features(folder: Path) -> bool:
    """Whether there are features to resume from, or another process is about to write some."""
    for file in folder.rglob(FEATURES):
        if file.stat().st_size:
            return True
        try:
            check_idle(file.parent)
        except UserError:
            return True
    return False


def _assigned(model: Model, features: Float[Tensor, "n d"], metric: Metric) -> Assignments:
    found = assign_rows(features, model, model.centers, metric)
    return replace(found, labels=model.numbers_of(found.labels))
