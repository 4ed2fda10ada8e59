"""All figures of a result, from the features that it keeps, and baselines beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from shoal import evaluation
from shoal.errors import UserError
from shoal.evaluation import Evaluation, Truth, clustering_scores, clustering_signals
from shoal.evaluation.result import Merged
from shoal.mapped import by_parts
from shoal.progress import Progress
from shoal.results.merging import merge, write_merged_tables
from shoal.results.result import Result
from shoal.results.run_images import images_of_run
from shoal.training.trained import Trained
from shoal.types import Clustering, Images

REMEDY = "give each class a subfolder of its own, or the table a label column"


def evaluate(
    result: Result, progress: Progress, *, knn: bool = False, linear: bool = False, merge_to: int | None = None
) -> Evaluation:
    """Measure a result against true classes where there are any, and without.

    Of a training run, ``knn`` and ``linear`` ask for figures of the backbone's features, which takes a pass over the
    images, as does a method that clusters by a head of its own. Figures on pixels need the images as well.
    ``merge_to`` asks for figures of the clusters merged into this many, and writes the tables of these.

    Raises:
        UserError: a figure needs labels and there are none, or the images, and they are gone.
    """
    truth = truth_of(result)
    merged = None if merge_to is None else _merged(result, truth, merge_to)
    truth.check_labelled(knn=knn, linear=linear, remedy=REMEDY)
    backbone = _backbone(result, progress, needed=knn or linear)
    found = result.assignments
    # As in an E-step: images that take no part in the clustering are in no cluster when it is measured.
    labels = _in_clusters(by_parts(result.model.slots_of, found.labels), truth)
    clustering = Clustering(labels, result.model.centers, found.distance)
    figures = evaluation.evaluate(
        truth,
        result.features,
        clustering,
        result.seed,
        by_head=result.by_head,
        confidence=found.confidence,
        represented=backbone.features,
        knn=knn,
        linear=linear,
    )
    beside_head = result.by_head and backbone.features is not None
    baselines = evaluation.plain_baselines(
        truth,
        backbone.features if beside_head and backbone.features is not None else result.features,
        clustering,
        result.seed,
        n_clusters=result.asked,
        of="backbone" if beside_head else "features",
        pixels=None if backbone.images is None else backbone.images.pixels,
    )
    return replace(figures, baselines=baselines, merged=merged)


def _merged(result: Result, truth: Truth, merge_to: int) -> Merged:
    found, model = merge(result, merge_to)
    write_merged_tables(result, found, merge_to)
    labels = _in_clusters(found.labels, truth)
    clustering = Clustering(labels, model.centers, found.distance)
    signals = clustering_signals(result.features, clustering, result.seed)
    return Merged(merge_to, clustering_scores(truth.targets, labels), signals)


def _in_clusters(labels: Int64[Tensor, "n"], truth: Truth) -> Int64[Tensor, "n"]:
    """Clusters of the images that take part in the clustering."""
    return by_parts(lambda own, clustered: own.where(clustered, -1), labels, truth.clustered)


@dataclass(frozen=True, eq=False)
class _Backbone:
    """Images of a training run, and what its backbone makes of them where that is asked for."""

    images: Images | None = None
    features: Float[Tensor, "n e"] | None = None


def _backbone(result: Result, progress: Progress, *, needed: bool) -> _Backbone:
    """Nothing for a pretrained network, whose features are those that were clustered."""
    if not result.folder.is_run:
        return _Backbone()
    trained = Trained.load(result.folder.path)
    try:
        images = images_of_run(result, trained, progress)
    except UserError as error:
        if needed:
            raise
        progress.warn(f"figures that need the images are left out: {error}")
        return _Backbone()
    return _Backbone(images, trained.represent(images) if needed or result.by_head else None)


def truth_of(result: Result) -> Truth:
    """True classes of the images of a result, none where features were clustered."""
    n = len(result.assignments.labels)
    flags = result.flags or {}
    held_out = flags.get("held_out", torch.zeros(n, dtype=torch.bool))
    clustered = flags.get("clustered", torch.ones(n, dtype=torch.bool))
    embedded = result.embedded
    if embedded is None:
        return Truth(torch.full((n,), -1), held_out, clustered, ())
    return Truth(embedded.targets, held_out, clustered, embedded.classes)
