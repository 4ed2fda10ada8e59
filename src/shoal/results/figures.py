"""What a comparison needs to know of a result: settings, seed, figures, curves, and the cluster of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Int64
from torch import Tensor

from shoal.config import load_recipe, settings_of
from shoal.evaluation import clustering_scores, clustering_signals
from shoal.results.cluster_images import config_of
from shoal.results.result import Result
from shoal.types import Clustering

LABELLED = ("acc", "nmi", "ari")
UNLABELLED = ("silhouette", "smallest", "largest", "feature_std")


@dataclass(frozen=True)
class ImageSet:
    """What tells the images of a result from others."""

    n: int
    names: str
    """Digest of their names,"""
    content: str
    """and of their pixels or files; empty for features."""
    size: tuple[int, int] | None
    """Height and width of those pixels; None for files."""

    def is_same(self, other: ImageSet) -> bool:
        """Whether both are of the same images, in the same order; pixels of another size cannot be compared."""
        comparable = self.content and other.content and self.size == other.size
        return self.names == other.names and (not comparable or self.content == other.content)


@dataclass(frozen=True, eq=False)
class Figures:
    """A result as a comparison sees it."""

    path: Path
    method: str
    settings: Mapping[str, Any]
    """All but the seed, by the names they have as flags."""
    seed: int
    scores: Mapping[str, float]
    """``acc``, ``nmi`` and ``ari`` where there are labels; signals that need none; ``loss``, the mean of the last epoch
    of a training run."""
    rows: Sequence[Mapping[str, float]]
    """Of ``metrics.jsonl``; none where nothing was trained."""
    result: Result

    @cached_property
    def labels(self) -> Int64[Tensor, "n"]:
        """The cluster of each image as it was found, before any decision."""
        return self.result.clustered[1].labels

    @cached_property
    def images(self) -> ImageSet:
        """What was clustered."""
        ids, embedded = self.result.table_ids, self.result.embedded
        names = hashlib.blake2b(digest_size=16)
        for row, name in enumerate(ids):
            names.update(f"{chr(0) if row else ''}{name}".encode("utf-8", "surrogatepass"))
        if embedded is None:
            names.update(Path(str(self.result.source)).name.encode("utf-8", "surrogatepass"))
            return ImageSet(len(ids), names.hexdigest(), "", None)
        content = hashlib.blake2b(np.ascontiguousarray(embedded.fingerprints.numpy()).data, digest_size=16).hexdigest()
        return ImageSet(len(ids), names.hexdigest(), content, embedded.pixels)


def read_figures(path: Path) -> Figures:
    """The figures of a finished result, of training or of a clustering.

    Raises:
        UserError: it is not finished, or something in its folder is damaged.
    """
    result = Result.load(path)
    folder = result.folder
    rows = folder.read_metrics() if folder.is_run else []
    scores = {key: value for row in rows for key, value in row.items() if value is not None}
    if not scores.keys() >= set(UNLABELLED):  # nothing was trained, or by an early version
        scores |= _measured(result)
    if folder.is_run:
        settings = settings_of(load_recipe(str(folder.config.absolute())))
    else:
        settings = dict(_flat(yaml.safe_load(config_of(result))))
    settings.pop("seed", None)
    shown = {key: float(scores[key]) for key in ("loss", *LABELLED, *UNLABELLED) if key in scores}
    return Figures(path, result.method, settings, result.seed, shown, rows, result)


def _measured(result: Result) -> dict[str, float]:
    """Scores and signals of clusters as they were found."""
    _, found, _ = result.clustered
    clustering = Clustering(found.labels, result.centers, found.distance)
    signals = clustering_signals(result.features, clustering, result.seed)
    embedded = result.embedded
    scores = {} if embedded is None else clustering_scores(embedded.targets, found.labels)
    return {**signals, **scores}


def _flat(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
