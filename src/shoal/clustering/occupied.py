"""Clusters without rows: a clustering without them.

k clusters need k rows that differ. Where rows repeat, some centres find none, and a mixture or a head may leave
components without rows anyway. An estimator keeps all k, as scikit-learn's do; a result keeps those that have rows, so
that nothing that reads it meets an empty one.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Int64
from torch import Tensor

from shoal.clustering.density import UMAPHDBSCAN
from shoal.clustering.grouping import group_sizes
from shoal.clustering.kmeans.estimator import KMeans
from shoal.clustering.kmeans.minibatch import MiniBatchKMeans
from shoal.clustering.mixtures.gaussian import GaussianMixture
from shoal.clustering.saved import COVARIANCES, SETTINGS, Clusterer, clusterer_from, shapes_of, state_of
from shoal.clustering.umap import UMAPKMeans


def renumbered(labels: Int64[Tensor, "n"]) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "m"]]:
    """Number clusters anew from 0, without the empty ones.

    Args:
        labels: cluster of each row; −1, none, stays.

    Returns:
        The new cluster of each row, and the old number of each new cluster, ascending.
    """
    sizes = group_sizes(labels)
    occupied = sizes.nonzero()[:, 0]
    if len(occupied) == len(sizes):
        return labels, occupied
    return torch.searchsorted(occupied, labels).where(labels >= 0, -1), occupied


def restricted(clusterer: Clusterer, occupied: Int64[Tensor, "m"]) -> Clusterer:
    """A fitted estimator with some of its clusters, which predicts as if the others had never been.

    Args:
        clusterer: fitted.
        occupied: numbers of the clusters to keep, ascending.
    """
    header, tensors = state_of(clusterer)
    name = type(clusterer).__name__
    n_clusters, m = SETTINGS[name][0], len(occupied)
    k = header[n_clusters]
    shapes = shapes_of(name, tensors)
    if isinstance(clusterer, GaussianMixture):
        shapes["covariances_"] = COVARIANCES[clusterer.covariance_type]
    for each, shape in shapes.items():
        if "k" in shape:
            tensors[each] = tensors[each].index_select(shape.index("k"), occupied).contiguous()
    header[n_clusters] = m
    if isinstance(clusterer, GaussianMixture):
        tensors["weights_"] = tensors["weights_"] / tensors["weights_"].sum()
    if isinstance(clusterer, KMeans | MiniBatchKMeans):
        # The variance is spread over the dimensions that the centres span.
        d = cast("int", header["n_features"])
        header["variance"] *= max(1, min(d, k - 1)) / max(1, min(d, m - 1))
    if isinstance(clusterer, UMAPKMeans):
        known = torch.isin(tensors["row_labels_"], occupied)
        tensors = {each: value[known] for each, value in tensors.items()}
        tensors["row_labels_"] = torch.searchsorted(occupied, tensors["row_labels_"])
    if isinstance(clusterer, UMAPHDBSCAN):
        tensors |= _layers_without(clusterer, occupied)
    return clusterer_from(header, tensors)


def _layers_without(clusterer: UMAPHDBSCAN, occupied: Int64[Tensor, "m"]) -> dict[str, Tensor]:
    """What a density keeps without the embedded rows of some clusters of its layer: these rows, and all layers of them.

    A layer that is left without a cluster is none, nor is a second one with as many clusters.
    """
    labels = torch.as_tensor(clusterer.row_labels_).cpu()
    known = torch.isin(labels, occupied) | (labels < 0)
    found: dict[int, Tensor] = {}
    for layer in (labels, *torch.as_tensor(clusterer.layers_).cpu()):  # that which was taken is kept in any case
        left, clusters = renumbered(layer[known])
        if len(clusters):
            found.setdefault(len(clusters), left)
    rows, cores = (torch.as_tensor(each).cpu()[known] for each in (clusterer.rows_, clusterer.cores_))
    layers = torch.stack([found[k] for k in sorted(found, reverse=True)])
    return {"rows_": rows.contiguous(), "cores_": cores.contiguous(), "layers_": layers}
