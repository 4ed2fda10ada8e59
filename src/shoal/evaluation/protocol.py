"""Every figure of an evaluation, from features, clusters and true classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, Shaped
from torch import Tensor

from shoal.clustering.grouping import group_sizes
from shoal.clustering.inputs import features_from
from shoal.clustering.kmeans import assign, kmeans
from shoal.clustering.parameters import Array
from shoal.data.features import read_features
from shoal.data.sources.array import map_npy
from shoal.errors import UserError
from shoal.evaluation.baselines import plain_baselines
from shoal.evaluation.calibration import calibration, kmeans_confidence
from shoal.evaluation.knn import NEIGHBOURS, TEMPERATURE, knn_leave_one_out, knn_predict
from shoal.evaluation.linear import LARS_LEAST_ROWS, LARS_PROBE, SGD_PROBE, ProbeSetting, linear_predict
from shoal.evaluation.metrics import class_scores, clustering_scores, matched_class
from shoal.evaluation.result import CalibrationResult, Evaluation, KNNResult, LinearProbeResult, Ranking, TrainToTest
from shoal.evaluation.signals import clustering_signals, dispersion_signals
from shoal.evaluation.truth import Truth
from shoal.progress import counted
from shoal.types import Clustering


def evaluate(  # noqa: PLR0913
    truth: Truth,
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    seed: int,
    *,
    by_head: bool = False,
    confidence: Float[Tensor, "n"] | None = None,
    represented: Float[Tensor, "n e"] | None = None,
    knn: bool = False,
    linear: bool = False,
) -> Evaluation:
    """All figures of a clustering and its features except the baselines, which come from ``plain_baselines``.

    Args:
        truth: of the n rows.
        features: what was clustered.
        clustering: cosine k-means of the features, or an assignment to its centres.
        seed: of the rows that the silhouette samples, and of every k-means.
        by_head: the centres are those of the method's own head and are kept for the test part.
        confidence: of each row's cluster; None: that of k-means, calibrated here.
        represented: features for nearest neighbours and the linear probe; None: those that were clustered.
        knn: also classify by nearest neighbours.
        linear: also train a linear probe.

    Raises:
        UserError: a feature is NaN or infinite, or there are too few labels.
    """
    k = len(clustering.centers)
    represented = features if represented is None else represented
    return Evaluation(
        images=len(features),
        labelled=int(truth.known.sum()),
        held_out=int(truth.held_out.sum()),
        clusters=int((group_sizes(clustering.labels) > 0).sum()),
        scores=clustering_scores(truth.targets, clustering.labels),
        signals=clustering_signals(features, clustering, seed) | dispersion_signals(features, clustering),
        baselines=[],
        train_to_test=_train_to_test(truth, features, k, seed, clustering.centers if by_head else None),
        classes=class_scores(truth.targets, clustering.labels, k, truth.classes),
        calibration=_calibration(truth, features, clustering, confidence, seed),
        knn=nearest(truth, represented) if knn else None,
        linear=probe(truth, represented, seed) if linear else None,
        nowhere=int((truth.known & truth.clustered & (clustering.labels.cpu() < 0)).sum()),
    )


def nearest(truth: Truth, features: Array | Tensor) -> KNNResult:
    """Classify the test part by its neighbours in the train part; without a test part, each image among all others.

    Raises:
        UserError: there are too few labelled images.
    """
    features = features_from(features)
    labels = truth.targets.to(features.device)
    if truth.has_test_part:
        bank, queries = ((truth.known & part).to(features.device) for part in (~truth.held_out, truth.held_out))
        ranked = knn_predict(features[queries], features[bank], labels[bank], NEIGHBOURS, TEMPERATURE)
        n_bank, protocol = int(bank.sum()), "test part"
    else:
        queries = labels >= 0
        ranked = knn_leave_one_out(features[queries], labels[queries], NEIGHBOURS, TEMPERATURE)
        n_bank, protocol = len(ranked) - 1, "leave one out"
    return KNNResult(NEIGHBOURS, TEMPERATURE, protocol, n_bank, len(ranked), _ranking(ranked, labels[queries]))


def probe(truth: Truth, features: Array | Tensor, seed: int) -> LinearProbeResult:
    """Train linear classifiers on the train part and test them on the test part, or else on a random fifth.

    Raises:
        UserError: fewer than two images are labelled.
    """
    features = features_from(features)
    train, test = (rows.to(features.device) for rows in truth.train_and_test(torch.Generator().manual_seed(seed)))
    labels = truth.targets.to(features.device)

    def classify(setting: ProbeSetting) -> Ranking:
        generator = torch.Generator().manual_seed(seed)
        ranked = linear_predict(features[test], features[train], labels[train], setting, generator)
        return _ranking(ranked, labels[test])

    return LinearProbeResult(
        protocol="test part" if truth.has_test_part else "random fifth",
        train=len(train),
        test=len(test),
        sgd=classify(SGD_PROBE),
        lars=classify(LARS_PROBE) if len(train) >= LARS_LEAST_ROWS else None,
    )


def _ranking(ranked: Int64[Tensor, "q c"], labels: Int64[Tensor, "q"]) -> Ranking:
    hits = ranked == labels[:, None]
    top1, top5 = (float(hits[:, :k].any(1).double().mean()) for k in (1, 5))
    return Ranking(top1, top5 if ranked.shape[1] > 5 else None)


def _train_to_test(
    truth: Truth, features: Float[Tensor, "n d"], n_clusters: int, seed: int, centers: Float[Tensor, "k d"] | None
) -> TrainToTest | None:
    """Centres of the train part alone (or of the head), scored on the test part; None if either part is too small."""
    train = (truth.clustered & ~truth.held_out).to(features.device)
    if not truth.has_test_part or int(train.sum()) < n_clusters:
        return None
    if centers is None:
        generator = torch.Generator(features.device).manual_seed(seed)
        centers = kmeans(features[train], n_clusters, generator=generator).centers
    test = (truth.held_out & truth.known).to(features.device)
    labels = truth.targets.to(features.device)
    of_train, clusters = (assign(features[rows], centers, "cosine")[0] for rows in (train, test))
    matched = torch.from_numpy(matched_class(labels[train], of_train, n_clusters))
    right = matched[clusters.cpu()] == labels[test].cpu()
    return TrainToTest(
        train=int(train.sum()),
        test=len(clusters),
        scores=clustering_scores(labels[test], clusters),
        accuracy_matched_on_train=float(right.double().mean()),
    )


def _calibration(
    truth: Truth,
    features: Float[Tensor, "n d"],
    clustering: Clustering,
    confidence: Float[Tensor, "n"] | None,
    seed: int,
) -> CalibrationResult | None:
    """None if no row has both a label and a cluster."""
    clusters, labels = clustering.labels.cpu(), truth.targets.cpu()
    rows = (clusters >= 0) & (labels >= 0)
    if not rows.any():
        return None
    matched = torch.from_numpy(matched_class(labels, clusters, len(clustering.centers)))
    sure = kmeans_confidence(features, clustering, seed) if confidence is None else confidence.cpu()
    return calibration(sure[rows], matched[clusters[rows]] == labels[rows])


SEED = 0
"""Random seed of an evaluation of files; a run uses its own."""


def evaluate_files(
    features: tuple[Path, Path | None],
    labels: tuple[Path | None, Path | None],
    n_clusters: int | None,
    *,
    knn: bool,
    linear: bool,
) -> Evaluation:
    """Cluster features from a file by cosine k-means, and evaluate the clusters and plain methods.

    Args:
        features: .npy file (n, d), and optionally one of a test part (m, d); both are clustered together.
        labels: .npy file of integers, negative for none, or of names, (n,), and one for the test part; None: no labels.
        n_clusters: k; None: the number of classes.
        knn: also classify by nearest neighbours.
        linear: also train a linear probe.

    Raises:
        UserError: a file cannot be read or does not match the others, k is out of range, or labels are missing.
    """
    if labels[1] is not None and features[1] is None:
        raise UserError("--test-labels needs --test-features: give both or neither.")
    parts = [_part(x, y) for x, y in zip(features, labels, strict=True) if x is not None]
    widths = [rows.shape[1] for rows, _ in parts]
    if len(set(widths)) > 1:
        raise UserError(
            f"{features[1]} has {counted(widths[1], 'column')} but {features[0]} has {widths[0]}: give features of one "
            "network."
        )
    truth = _truth([found for _, found in parts])
    truth.check_labelled(knn=knn, linear=linear, remedy="give --labels")
    k = len(truth.classes) if n_clusters is None else n_clusters
    if n_clusters is None and not k:
        raise UserError("the number of clusters is unknown without labels: give --n-clusters.")
    rows = torch.cat([rows for rows, _ in parts])
    clustering = kmeans(rows, k, generator=torch.Generator().manual_seed(SEED))
    found = evaluate(truth, rows, clustering, SEED, knn=knn, linear=linear)
    return replace(found, baselines=plain_baselines(truth, rows, clustering, SEED))


def _part(features: Path, labels: Path | None) -> tuple[Float[Tensor, "n d"], Shaped[np.ndarray, "n"]]:
    """Features and labels of one part; -1 for all rows without a file of labels."""
    rows = read_features(features, cosine=True)
    return rows, _labels(labels, len(rows), features) if labels else np.full(len(rows), -1)


def _labels(path: Path, n: int, features: Path) -> Shaped[np.ndarray, "n"]:
    array = map_npy(path)
    if array.dtype.kind not in "iuUS":
        raise UserError(f"{path} holds {array.dtype}: labels must be integers, negative for none, or names.")
    if array.shape != (n,):
        raise UserError(f"{path} has shape {array.shape} but {features} has {n} rows: give labels of shape ({n},).")
    largest = int(array.max()) if array.dtype.kind in "iu" else 0
    if largest > np.iinfo(np.int64).max:
        raise UserError(f"{path} holds {largest}, which exceeds int64: renumber the labels.")
    return array


def _truth(parts: list[Shaped[np.ndarray, "_"]]) -> Truth:
    """Labels renumbered from 0 without gaps; the original numbers become the names of the classes."""
    names, parts = _numbered(parts)
    joined = np.concatenate([part.astype(np.int64) for part in parts])
    classes, numbers = np.unique(joined[joined >= 0], return_inverse=True)
    labels = np.full(len(joined), -1)
    labels[joined >= 0] = numbers
    held_out = (
        torch.arange(len(joined)) >= len(parts[0]) if len(parts) > 1 else torch.zeros(len(joined), dtype=torch.bool)
    )
    everything = torch.ones(len(joined), dtype=torch.bool)
    names = classes if names is None else names[classes]
    return Truth(torch.from_numpy(labels), held_out, everything, [str(name) for name in names])


def _numbered(
    parts: list[Shaped[np.ndarray, "_"]],
) -> tuple[Shaped[np.ndarray, "c"] | None, list[Integer[np.ndarray, "_"]]]:
    """The names of the classes, if the labels are names, and labels as numbers; a part without labels has none."""
    named = [part.dtype.kind in "US" for part in parts]
    if not any(named):
        return None, parts
    if any(not is_named and (part >= 0).any() for is_named, part in zip(named, parts, strict=True)):
        raise UserError("the labels of one part are names and those of the other numbers: give either.")
    texts = [np.char.decode(part, "utf-8", "replace") if part.dtype.kind == "S" else part for part in parts]
    names = np.unique(np.concatenate([text for text, is_named in zip(texts, named, strict=True) if is_named]))
    numbers = [np.searchsorted(names, text) if is_named else text for text, is_named in zip(texts, named, strict=True)]
    return names, numbers
