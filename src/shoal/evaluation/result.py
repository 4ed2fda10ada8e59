"""What an evaluation found: the schema of ``evaluation.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from shoal.errors import UserError
from shoal.files import atomic_write

FORMAT = 1
"""Version of the file; a newer one is refused."""


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


@dataclass(frozen=True)
class Evaluation:
    """All figures of an evaluation; what needs labels, a test part or a flag is None or empty without."""

    images: int
    labelled: int
    held_out: int
    clusters: int
    scores: dict[str, float]
    """acc, nmi, ari, fmi, ami, homogeneity, completeness, v_measure, purity of all labelled images."""
    kmeans: dict[str, float]
    """The same of k-means on the backbone's features, beside the clusters of a method's own head; else empty."""
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
            newer = found.pop("format") > FORMAT
            if not newer:
                return TypeAdapter(cls).validate_python(found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {again}.") from error
        raise UserError(f"{path} was written by a newer version of shoal: {again}.")
