"""Images with labels that were not trained on, in the clusters of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from torch import Tensor

from shoal.errors import UserError
from shoal.evaluation.metrics import class_scores, clustering_scores, matched_class
from shoal.evaluation.result import FORMAT, Evaluation
from shoal.evaluation.tables import as_text
from shoal.evaluation.truth import Truth
from shoal.files import atomic_write

REMEDY = "give each class a subfolder of its own, a table a label column, or the labels as y in Python"


@dataclass(frozen=True)
class HeldOut:
    """Figures of held-out images, with two that only these have."""

    figures: Evaluation
    trained_on: int
    """Images among them that the clusters were made of, by their content."""
    matched_before: float | None
    """Accuracy under the matching of clusters and classes that the run's own labels give; None without such labels."""

    @property
    def scores(self) -> dict[str, float]:
        """acc, purity, nmi and so on, of the images that have a label and a cluster."""
        return self.figures.scores

    def as_text(self) -> str:
        """All figures, for the terminal."""
        return "\n".join([as_text(self.figures), *([""] if (notes := [*self._notes()]) else []), *notes])

    def _notes(self) -> Iterator[str]:
        n_clusters, n_classes = self.figures.clusters, len(self.figures.classes)
        if n_clusters != n_classes:
            yield (
                f"{n_clusters} clusters and {n_classes} classes: the accuracy matches one to one, the purity is that "
                "of the best many-to-one matching."
            )
        if self.matched_before is not None:
            yield f"With the matching that the run's own labels give, the accuracy is {self.matched_before:.4f}."
        if self.trained_on:
            many = "1 of these images is" if self.trained_on == 1 else f"{self.trained_on} of these images are"
            yield f"{many} among those that the clusters were made of: leave them out for figures of new images."

    def save(self, path: Path) -> None:
        """Write the figures as JSON, with the keys of ``evaluation.json``.

        Raises:
            UserError: the file cannot be written.
        """
        ours = {"trained_on": self.trained_on, "matched_before": self.matched_before}
        text = json.dumps({"format": FORMAT, **asdict(self.figures), **ours}, indent=2, allow_nan=False)
        atomic_write(path, f"{text}\n".encode())


def score_held_out(
    truth: Truth,
    clusters: Int64[Tensor, "n"],
    n_clusters: int,
    *,
    own: tuple[Truth, Int64[Tensor, "m"]],
    known: Bool[Tensor, "n"],
) -> HeldOut:
    """Compare the clusters of held-out images with their classes.

    Args:
        truth: of the n images.
        clusters: of each image in [0, n_clusters), −1 for none.
        n_clusters: k of the run.
        own: truth and clusters of the m images that the clusters were made of.
        known: which of the n images are among those.

    Raises:
        UserError: no image has a label.
    """
    if not truth.known.any():
        raise UserError(f"scores need labels, and these images have none: {REMEDY}.")
    clusters = clusters.cpu()
    figures = Evaluation(
        images=len(clusters),
        labelled=int(truth.known.sum()),
        held_out=len(clusters),
        clusters=n_clusters,
        scores=clustering_scores(truth.targets, clusters),
        baselines=[],
        signals={},
        train_to_test=None,
        classes=class_scores(truth.targets, clusters, n_clusters, truth.classes),
        calibration=None,
        knn=None,
        linear=None,
        nowhere=int((truth.known & (clusters < 0)).sum()),
    )
    return HeldOut(figures, int(known.sum()), _matched_before(truth, clusters, n_clusters, own))


def _matched_before(
    truth: Truth, clusters: Int64[Tensor, "n"], n_clusters: int, own: tuple[Truth, Int64[Tensor, "m"]]
) -> float | None:
    """Accuracy where each cluster stands for the class that it is matched to on the run's own images, by name."""
    rows = truth.known & (clusters >= 0)
    if not rows.any() or not set(_names(truth)) & set(_names(own[0])):
        return None
    names = [*_names(own[0]), ""]  # the last for clusters that are matched to none
    matched = matched_class(own[0].targets, own[1].cpu(), n_clusters)
    meant = np.array(names)[matched][clusters[rows].numpy()]
    true = np.array(_names(truth))[truth.targets[rows].cpu().numpy()]
    return float((meant == true).mean())


def _names(truth: Truth) -> list[str]:
    """Names of the classes by their numbers."""
    n = int(truth.targets.max()) + 1 if len(truth.targets) else 0
    return [truth.classes[i] if i < len(truth.classes) else str(i) for i in range(n)]
