"""New images, or new rows of features, into the clusters of a result."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from shoal import distributed, job
from shoal.data import find_source
from shoal.data.listing import others_of
from shoal.data.sources.others import in_words
from shoal.data.unread import reading_notes
from shoal.errors import UserError
from shoal.features.store import writing
from shoal.progress import Progress
from shoal.results.networks import embed_more
from shoal.results.result import Result, given_features
from shoal.results.rows import Assignments, assign_rows
from shoal.results.tables import write_assignments


def predict(result: Result, name: str, out: Path, *, strict: bool, progress: Progress) -> tuple[int, int] | None:
    """Write the cluster of each new image, or of each row of a ``.npy`` file where features were clustered.

    The processes of a job call it together and embed together; the first does the rest.

    Returns:
        How many there are, and how many of them belong nowhere; None in processes other than the first.

    Raises:
        UserError: they cannot be read, the network's weights have changed or are gone, or ``out`` cannot be written.
    """
    if result.encoder is None:
        if not distributed.is_first():
            return None
        features = given_features(name, cosine=result.metric == "cosine")
        if features.shape[1] != result.centers.shape[1]:
            width = result.centers.shape[1]
            raise UserError(f"{name} has {features.shape[1]} features in a row, and {width} were clustered.")
        rows = [str(row) for row in range(len(features))]
        found = _assigned(result, features)
        write_assignments(found, rows, out, names=result.names)
        return len(features), int((found.labels < 0).sum())
    with contextlib.nullcontext() if Path(name).exists() else job.local_first():  # it downloads what the others find
        source = find_source(name)
    with _folder_for_features(out) as folder:
        ranges = None if result.embedded is None else result.embedded.ranges
        embedded = embed_more(result, source, folder / "features", ranges=ranges, strict=strict, progress=progress)
        if not distributed.is_first():
            return None
        for line in reading_notes(embedded.skipped, embedded.notes, len(embedded.ids)):
            progress.warn(line)
        if others := others_of(source):
            progress.warn(f"{sum(others.counts.values())} other files were not read: {in_words(others.counts)}")
        found, targets, classes = _assigned(result, embedded.features), embedded.targets, embedded.classes
        write_assignments(found, embedded.ids, out, names=result.names, targets=targets, classes=classes)
        return len(embedded.ids), int((found.labels < 0).sum())


@contextlib.contextmanager
def _folder_for_features(out: Path) -> Iterator[Path]:
    """A folder that is removed in the end; where there are several processes, beside the table, where all see it."""
    if distributed.world_size() == 1:
        with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
            yield Path(folder)
        return
    with contextlib.ExitStack() as stack:

        def made() -> str:
            place = out.absolute().parent
            with writing(place, 0):
                return stack.enter_context(tempfile.TemporaryDirectory(prefix=".shoal-", dir=place))

        yield Path(job.of_first(made))
        job.meet()  # nobody reads it any more


def _assigned(result: Result, features: Float[Tensor, "n d"]) -> Assignments:
    found = assign_rows(features, result.model, result.model.centers, result.metric)
    return replace(found, labels=result.model.numbers_of(found.labels))
