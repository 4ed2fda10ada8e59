"""New images, or new rows of features, into the clusters of a saved clustering."""

from __future__ import annotations

import tempfile
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from shoal.data import find_source
from shoal.data.reading import skip_note
from shoal.data.sources.array import read_features
from shoal.errors import UserError
from shoal.features import embed, load_encoder
from shoal.progress import Progress
from shoal.results.clustered import Clustered
from shoal.results.rows import Assigned, assigned
from shoal.results.tables import write_assigned


def predict(clustered: Clustered, name: str, out: Path, *, strict: bool, progress: Progress) -> int:
    """Write the cluster of each new image, or of each row of a ``.npy`` file where features were clustered.

    Returns:
        How many there are.

    Raises:
        UserError: they cannot be read, the network's weights have changed or are gone, or ``out`` cannot be written.
    """
    if clustered.encoder is None:
        features = read_features(Path(name), cosine=clustered.metric == "cosine")
        if features.shape[1] != clustered.centers.shape[1]:
            width = clustered.centers.shape[1]
            raise UserError(f"{name} has {features.shape[1]} features in a row, and {width} were clustered.")
        write_assigned(_assigned(clustered, features), [str(row) for row in range(len(features))], out)
        return len(features)
    source, encoder = find_source(name), load_encoder(clustered.encoder)
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        embedded = embed(source, encoder, Path(folder), strict=strict, progress=progress.counter("embedding images"))
        if embedded.skipped:
            progress.warn(skip_note(embedded.skipped, len(embedded.ids)))
        found = _assigned(clustered, embedded.features)
        write_assigned(found, embedded.ids, out, labels=embedded.targets, classes=embedded.classes)
        return len(embedded.ids)


def _assigned(clustered: Clustered, features: Float[Tensor, "n d"]) -> Assigned:
    return assigned(features, clustered.clusterer, clustered.centers, clustered.metric)
