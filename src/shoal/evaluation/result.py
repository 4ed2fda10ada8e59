"""The result of an evaluation: the schema of ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from shoal.errors import UserError
from shoal.files import atomic_write

FORMAT = 3
"""Version of the file; 2 (other confidences) and 1 (``kmeans`` instead of ``baselines``) can still be read."""


@dataclass(frozen=True)
class ClassScore:
    """A class and the cluster that the one-to-one matching assigns to it.

    ``recall`` is the share of the class in this cluster, ``precision`` the share of the cluster's labelled images that
    belong to the class. Without a cluster, recall is 0 and precision None; it is also None for an empty cluster.
    """

    name: str
    images: int
    cluster: int | None
    recall: float
    precision: float | None


@dataclass(frozen=True)
class ConfidenceBin:
    """Labelled images with a confidence from ``low`` to ``high``: mean confidence and share that is correct."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationResult:
    """How well the confidence predicts the probability that an image is in the matched class."""

    error: float
    """Expected calibration error: mean of |accuracy − confidence| over images, by bin."""
    confidence: float
    """Mean over the images."""
    accuracy: float
    bins: Sequence[ConfidenceBin]
    adaptive_error: float | None = None
    """The same over bins of equally many images; None in files of format 2."""


@dataclass(frozen=True)
class Ranking:
    """Top-1 and top-5 accuracy; top-5 is None with five classes or fewer."""

    top1: float
    top5: float | None


@dataclass(frozen=True)
class KNNResult:
    """Weighted nearest neighbours: ``queries`` images among ``bank`` others."""

    k: int
    temperature: float
    protocol: str
    bank: int
    queries: int
    accuracy: Ranking


@dataclass(frozen=True)
class LinearProbeResult:
    """Linear classifiers trained on ``train`` images; ``lars`` is None if there are too few for its setting."""

    protocol: str
    train: int
    test: int
    sgd: Ranking
    lars: Ranking | None


@dataclass(frozen=True)
class TrainToTest:
    """Centres found in the train part, scored on the test part.

    ``scores`` match clusters and classes on the test part, as published results do;
    ``accuracy_matched_on_train`` keeps the matching of the train part.
    """

    train: int
    test: int
    scores: dict[str, float]
    accuracy_matched_on_train: float


PlainMethod = Literal["k-means", "UMAP + k-means"]
PlainSource = Literal["features", "backbone", "pixels"]


@dataclass(frozen=True)
class Baseline:
    """A plain method with the same number of clusters.

    ``of`` is what it clustered: the same features, those of the backbone, or the pixels.
    """

    method: PlainMethod
    of: PlainSource
    sampled: int | None
    """Size of the random sample it clustered; None: all clustered images."""
    scores: dict[str, float]
    """As for the clusters; empty without labels."""
    agreement: float | None
    """ARI with the evaluated clusters: 1 if identical, 0 by chance; None if unknown."""
    failed: str | None
    """Why there are no figures; None if there are."""


@dataclass(frozen=True)
class Merged:
    """The clusters merged into fewer along their tree."""

    clusters: int
    scores: dict[str, float]
    """As for the clusters; empty without labels."""
    signals: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All figures of an evaluation; None or empty where labels, a test part or a flag were missing."""

    images: int
    labelled: int
    held_out: int
    clusters: int
    scores: dict[str, float]
    """acc, nmi, ari, fmi, ami, homogeneity, completeness, v_measure, purity of all labelled images."""
    baselines: Sequence[Baseline]
    """Plain methods on the same features and, for a run, on the pixels."""
    signals: dict[str, float]
    """silhouette, smallest, largest, feature_std, and where defined davies_bouldin and calinski_harabasz, none of which
    needs labels."""
    train_to_test: TrainToTest | None
    classes: Sequence[ClassScore]
    calibration: CalibrationResult | None
    knn: KNNResult | None
    linear: LinearProbeResult | None
    nowhere: int = 0
    """Labelled images that took part in the clustering and are in no cluster; ``scores`` leave them out."""
    merged: Merged | None = None
    """None unless it was asked for."""

    def save(self, path: Path) -> None:
        """Write the figures as JSON.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False)
        atomic_write(path, f"{text}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Evaluation | None:
        """The figures written by ``save``; None if there is no such file.

        Raises:
            UserError: the file is damaged, or a newer version wrote it.
        """
        if not path.exists():
            return None
        again = "run 'shoal evaluate' to write it again"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            version = found.pop("format")
            if version == 1:
                found["baselines"] = _of_format_1(found.pop("kmeans"))
            if version <= FORMAT:
                return TypeAdapter(cls).validate_python(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {again}.") from error
        raise UserError(f"{path} was written by a newer version of shoal: {again}.")


def _of_format_1(kmeans: dict[str, float]) -> list[dict[str, Any]]:
    """The only baseline of that format: k-means on the backbone, for methods with a head."""
    rest = {"sampled": None, "agreement": None, "failed": None}
    return [{"method": "k-means", "of": "backbone", "scores": kmeans, **rest}] if kmeans else []
