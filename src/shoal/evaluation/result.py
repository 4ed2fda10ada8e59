"""What an evaluation found: the schema of ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from shoal.errors import UserError
from shoal.files import atomic_write

FORMAT = 2
"""Version of the file; a newer one is refused, format 1 (``kmeans`` instead of ``baselines``) is read."""


@dataclass(frozen=True)
class ClassScore:
    """A class and the cluster that the one-to-one matching gives it.

    ``recall`` is the share of the class in this cluster, ``precision`` the share of the cluster's labelled images that
    are of the class. Without a cluster recall is 0 and precision None; it is None as well for an empty cluster.
    """

    name: str
    images: int
    cluster: int | None
    recall: float
    precision: float | None


@dataclass(frozen=True)
class ConfidenceBin:
    """Labelled images with a confidence from ``low`` to ``high``: their mean confidence and the share that is right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether confidence can be taken for a probability of being in the matched class."""

    temperature: float
    error: float
    """Expected calibration error: mean of |accuracy − confidence| over images, by bin."""
    confidence: float
    """Mean over images."""
    accuracy: float
    bins: Sequence[ConfidenceBin]


@dataclass(frozen=True)
class Ranking:
    """How often the true class ranks first, and among the first five; the latter only with more than five classes."""

    top1: float
    top5: float | None


@dataclass(frozen=True)
class Neighbours:
    """Weighted nearest neighbours: ``queries`` images among ``bank`` others."""

    k: int
    temperature: float
    protocol: str
    bank: int
    queries: int
    accuracy: Ranking


@dataclass(frozen=True)
class Linear:
    """Linear classifiers trained on ``train`` images; ``lars`` is None where there are too few for its setting."""

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
    """A plain method that looked for as many clusters, for these to be held against.

    ``of`` is what it clustered: the features that were clustered, those of the backbone, or the pixels.
    """

    method: PlainMethod
    of: PlainSource
    sampled: int | None
    """Of how many images, drawn at random; None: of all that are clustered."""
    scores: dict[str, float]
    """The same as of the clusters; empty without labels."""
    agreement: float | None
    """ARI with the clusters that are evaluated: 1 for the same ones, 0 by chance; None where it is not known."""
    failed: str | None
    """Why there are no figures."""


@dataclass(frozen=True)
class Evaluation:
    """All figures of an evaluation; what needs labels, a test part or a flag is None or empty without."""

    images: int
    labelled: int
    held_out: int
    clusters: int
    scores: dict[str, float]
    """acc, nmi, ari, fmi, ami, homogeneity, completeness, v_measure, purity of all labelled images."""
    baselines: Sequence[Baseline]
    """Plain methods on the same features and, of a run, on the pixels."""
    signals: dict[str, float]
    """silhouette, smallest, largest, feature_std, and where defined davies_bouldin and calinski_harabasz: they need no
    labels."""
    train_to_test: TrainToTest | None
    classes: Sequence[ClassScore]
    calibration: Calibration | None
    knn: Neighbours | None
    linear: Linear | None

    def save(self, path: Path) -> None:
        """Write the figures as JSON.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False)
        atomic_write(path, f"{text}\n".encode())

    @classmethod
    def load(cls, path: Path) -> Evaluation | None:
        """The figures that ``save`` wrote, None if there is no such file.

        Raises:
            UserError: the file is damaged, or a newer version wrote it.
        """
        if not path.exists():
            return None
        again = "'shoal evaluate' writes it again"
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
    """The one baseline that there was, beside a method's own head: k-means on the backbone."""
    rest = {"sampled": None, "agreement": None, "failed": None}
    return [{"method": "k-means", "of": "backbone", "scores": kmeans, **rest}] if kmeans else []
