"""Evaluation of features and labels from .npy files, without a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from shoal.clustering.kmeans import kmeans
from shoal.data.sources.array import map_npy, read_features
from shoal.errors import UserError
from shoal.evaluation.baselines import plain_baselines
from shoal.evaluation.protocol import evaluate
from shoal.evaluation.result import Evaluation
from shoal.evaluation.truth import Truth

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
        labels: .npy file of integers (n,), negative for none, and one for the test part; None: no labels.
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
            f"{features[1]} has {widths[1]} columns but {features[0]} has {widths[0]}: give features of one network."
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


def _part(features: Path, labels: Path | None) -> tuple[Float[Tensor, "n d"], Integer[np.ndarray, "n"]]:
    """Features and labels of one part; -1 for all rows without a file of labels."""
    rows = read_features(features, cosine=True)
    return rows, _labels(labels, len(rows), features) if labels else np.full(len(rows), -1)


def _labels(path: Path, n: int, features: Path) -> Integer[np.ndarray, "n"]:
    array = map_npy(path)
    if array.dtype.kind not in "iu":
        raise UserError(f"{path} holds {array.dtype}: labels must be integers, negative for none.")
    if array.shape != (n,):
        raise UserError(f"{path} has shape {array.shape} but {features} has {n} rows: give labels of shape ({n},).")
    largest = int(array.max())
    if largest > np.iinfo(np.int64).max:
        raise UserError(f"{path} holds {largest}, which exceeds int64: renumber the labels.")
    return array


def _truth(parts: list[Integer[np.ndarray, "_"]]) -> Truth:
    """Labels renumbered from 0 without gaps; the original numbers become the names of the classes."""
    joined = np.concatenate([part.astype(np.int64) for part in parts])
    classes, numbers = np.unique(joined[joined >= 0], return_inverse=True)
    labels = np.full(len(joined), -1)
    labels[joined >= 0] = numbers
    held_out = (
        torch.arange(len(joined)) >= len(parts[0]) if len(parts) > 1 else torch.zeros(len(joined), dtype=torch.bool)
    )
    everything = torch.ones(len(joined), dtype=torch.bool)
    return Truth(torch.from_numpy(labels), held_out, everything, [str(name) for name in classes])
