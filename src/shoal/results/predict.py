"""New images, or new rows of features, into the clusters of a result."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from shoal.clustering.rows import Metric
from shoal.data import find_source
from shoal.data.listing import others_of
from shoal.data.sources.others import in_words
from shoal.data.unread import reading_notes
from shoal.errors import UserError
from shoal.progress import Progress
from shoal.results.merging import merge
from shoal.results.model import Model
from shoal.results.networks import embed_more
from shoal.results.result import Result, given_features
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import write_assignments


def predict(
    result: Result, name: str, out: Path, *, strict: bool, progress: Progress, merge_to: int | None = None
) -> tuple[int, int]:
    """Write the cluster of each new image, or of each row of a ``.npy`` file where features were clustered.

    With ``merge_to``, the clusters are merged into so many first, as ``merge`` does it.

    Returns:
        How many there are, and how many of them belong nowhere.

    Raises:
        UserError: they cannot be read, the network's weights have changed or are gone, or ``out`` cannot be written.
    """
    model, names = (result.model, result.names) if merge_to is None else (merge(result, merge_to)[1], {})
    if result.encoder is None:
        features = given_features(name, cosine=result.metric == "cosine")
        if features.shape[1] != result.centers.shape[1]:
            width = result.centers.shape[1]
            raise UserError(f"{name} has {features.shape[1]} features in a row, and {width} were clustered.")
        rows = [str(row) for row in range(len(features))]
        found = _assigned(model, features, result.metric)
        write_assignments(found, rows, out, names=names)
        return len(features), int((found.labels < 0).sum())
    source = find_source(name)
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        ranges = None if result.embedded is None else result.embedded.ranges
        at = Path(folder) / "features"
        embedded = embed_more(result, source, at, ranges=ranges, strict=strict, progress=progress)
        for line in reading_notes(embedded.skipped, embedded.notes, len(embedded.ids)):
            progress.warn(line)
        if others := others_of(source):
            progress.warn(f"{sum(others.counts.values())} other files were not read: {in_words(others.counts)}")
        found = _assigned(model, embedded.features, result.metric)
        targets, classes = embedded.targets, embedded.classes
        write_assignments(found, embedded.ids, out, names=names, targets=targets, classes=classes)
        return len(embedded.ids), int((found.labels < 0).sum())


def _assigned(model: Model, features: Float[Tensor, "n d"], metric: Metric) -> Assignments:
    found = assign_rows(features, model, model.centers, metric)
    return replace(found, labels=model.numbers_of(found.labels))
