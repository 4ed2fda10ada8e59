"""Clusterings by name, as plain tensors and numbers to save, and as networks to export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from jaxtyping import Shaped
from torch import Tensor

from shoal.clustering.density import UMAPHDBSCAN
from shoal.clustering.kmeans.estimator import KMeans
from shoal.clustering.kmeans.minibatch import MiniBatchKMeans
from shoal.clustering.linear import LinearHead, LinearPosterior
from shoal.clustering.mixtures.gaussian import GaussianMixture
from shoal.clustering.rows import ClusteringMethod, Metric
from shoal.clustering.temi.estimator import TEMI
from shoal.clustering.temi.heads import BOTTLENECK, HEAD_SHAPES, HIDDEN, Head
from shoal.clustering.umap import UMAPKMeans
from shoal.device import host_memory
from shoal.errors import UserError

Unsupervised = KMeans | MiniBatchKMeans | UMAPKMeans | GaussianMixture | TEMI | UMAPHDBSCAN
"""What is fitted to rows alone."""

Sharded = KMeans | MiniBatchKMeans | GaussianMixture
"""What the processes of a job fit together, each to its own rows."""

Clusterer = Unsupervised | LinearHead

SHARE_OF_MEMORY = 0.5
"""Of features that take up more, k-means is by mini-batches, which read each row about once."""

ROWS_UNKNOWN = 1024.0
"""Rows that each centre of an older file is taken to have had: a batch."""

FORMAT = 1
CLASSES: dict[str, type[Clusterer]] = {
    each.__name__: each
    for each in (KMeans, MiniBatchKMeans, UMAPKMeans, GaussianMixture, TEMI, UMAPHDBSCAN, LinearHead)
}
SETTINGS = {
    "KMeans": ("n_clusters", "metric"),
    "MiniBatchKMeans": ("n_clusters", "metric"),
    "UMAPKMeans": ("n_clusters", "metric"),
    "GaussianMixture": ("n_components", "metric", "covariance_type"),
    "TEMI": ("n_clusters", "metric"),
    "UMAPHDBSCAN": ("layer", "metric", "min_cluster_size"),
    "LinearHead": ("n_clusters", "metric"),
}
SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "KMeans": {"cluster_centers_": ("k", "d")},
    "MiniBatchKMeans": {"cluster_centers_": ("k", "d"), "counts_": ("k",)},
    "UMAPKMeans": {"rows_": ("m", "d"), "row_labels_": ("m",)},
    "GaussianMixture": {"weights_": ("k",), "means_": ("k", "d")},
    "TEMI": {"mean": ("d",), "weight": ("k", "d"), "bias": ("k",)},
    "UMAPHDBSCAN": {"rows_": ("m", "d"), "cores_": ("m",), "layers_": ("l", "m")},
    "LinearHead": {"mean_": ("d",), "weight_": ("k", "d"), "bias_": ("k",)},
}
COVARIANCES = {"full": ("k", "d", "d"), "tied": ("d", "d"), "diag": ("k", "d"), "spherical": ("k",)}


WHOLE_NUMBERS = ("row_labels_", "layers_")


def build_clusterer(
    method: ClusteringMethod,
    n_clusters: int | None,
    *,
    metric: Metric,
    seed: int,
    n: int,
    row_bytes: int = 0,
    min_cluster_size: int | None = None,
) -> Unsupervised:
    """An estimator to fit to n rows.

    Args:
        method: "kmeans" (by mini-batches if the features take up more than half of the memory), "umap-kmeans", "gmm" (a
            variance for each feature: full covariances have more numbers than there are rows), "temi", or "density".
        n_clusters: k; None leaves it to the density.
        metric: of the distances.
        seed: random seed.
        n: number of rows.
        row_bytes: size of a row; 0 if the features are in memory already.
        min_cluster_size: for "density" alone.

    Raises:
        UserError: there is no such method.
    """
    if method == "density":
        return UMAPHDBSCAN(n_clusters, min_cluster_size=min_cluster_size, metric=metric, random_state=seed)
    if n_clusters is None or min_cluster_size is not None:
        raise UserError(f"{method} takes a number of clusters; a smallest cluster is a setting of density.")
    if method == "kmeans":
        kind = KMeans if n * row_bytes <= SHARE_OF_MEMORY * host_memory() else MiniBatchKMeans
        return kind(n_clusters, metric=metric, random_state=seed)
    if method == "umap-kmeans":
        return UMAPKMeans(n_clusters, metric=metric, random_state=seed)
    if method == "gmm":
        return GaussianMixture(n_clusters, metric=metric, covariance_type="diag", random_state=seed)
    if method == "temi":
        return TEMI(n_clusters, metric=metric, random_state=seed)
    raise UserError(f"there is no clustering method {method!r}: give one of {', '.join(get_args(ClusteringMethod))}.")


def state_of(clusterer: Clusterer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A fitted estimator as a header for JSON and tensors by name, for ``clusterer_from``.

    They contain what predictions need: centres, Gaussians, a head, or the embedded rows (at most 10 000), for
    ``UMAPHDBSCAN`` with their clusters in all layers; not ``labels_``. Of mini-batches also the number of rows of each
    centre, from which ``partial_fit`` goes on.
    """
    name = type(clusterer).__name__
    header: dict[str, Any] = {"format": FORMAT, "estimator": name, "n_features": clusterer.n_features_in_}
    header |= {setting: getattr(clusterer, setting) for setting in SETTINGS[name]}
    if isinstance(clusterer, KMeans | MiniBatchKMeans):
        header["variance"] = clusterer.variance_
    if isinstance(clusterer, UMAPHDBSCAN):
        header["layer"] = clusterer.n_clusters_
    if isinstance(clusterer, TEMI):
        return header, {each: value.cpu().contiguous() for each, value in clusterer.head_.state_dict().items()}
    names = [*SHAPES[name], *(["covariances_"] if name == "GaussianMixture" else [])]
    return header, {each: torch.as_tensor(getattr(clusterer, each)).cpu().contiguous() for each in names}


def clusterer_from(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Clusterer:
    """The estimator that ``state_of`` described: ``predict`` and ``predict_proba`` return the same, bit for bit.

    Raises:
        UserError: the header or a tensor is missing, damaged or of another version.
    """
    name = header.get("estimator")
    if header.get("format") != FORMAT or name not in CLASSES:
        raise _damaged(f"its header names format {header.get('format')!r} and estimator {name!r}")
    settings: dict[str, Any] = {setting: header.get(setting) for setting in SETTINGS[name]}
    k, d = _count(header, SETTINGS[name][0], least=0 if name == "UMAPHDBSCAN" else 1), _count(header, "n_features")
    if settings["metric"] not in get_args(Metric):
        raise _damaged(f"its header names the metric {settings['metric']!r}")
    shapes = shapes_of(name, tensors)
    if name == "GaussianMixture":
        if settings["covariance_type"] not in COVARIANCES:
            raise _damaged(f"its header names the covariance_type {settings['covariance_type']!r}")
        shapes["covariances_"] = COVARIANCES[settings["covariance_type"]]
    if name == "MiniBatchKMeans":  # older files do not say how many rows each centre had
        tensors = {"counts_": torch.full((k,), ROWS_UNKNOWN), **tensors}
    found = {each: _checked(each, tensors.get(each), shape, k, d) for each, shape in shapes.items()}
    clusterer = CLASSES[name](**settings)
    clusterer.n_features_in_ = d
    _fill(clusterer, header, found)
    return clusterer


def shapes_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The tensors of an estimator, but for covariances; older files of TEMI keep one of its heads."""
    return dict(HEAD_SHAPES if name == "TEMI" and "last" in tensors else SHAPES[name])


def _fill(clusterer: Clusterer, header: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """Restore the results of ``fit``."""
    if isinstance(clusterer, TEMI):
        older = "last" in found
        clusterer.head_ = Head(clusterer.metric, **found) if older else LinearPosterior(clusterer.metric, **found)
        return
    for name, value in found.items():
        setattr(clusterer, name, value)
    if isinstance(clusterer, KMeans | MiniBatchKMeans):
        variance = header.get("variance")
        if not isinstance(variance, float) or not 0 <= variance < float("inf"):
            raise _damaged(f"its header names the variance {variance!r}")
        clusterer.variance_ = variance
    if isinstance(clusterer, UMAPHDBSCAN):
        _fill_layers(clusterer, header, found)
    if isinstance(clusterer, UMAPKMeans):
        labels = found["row_labels_"]
        if (
            len(labels) != len(found["rows_"])
            or not len(labels)
            or not 0 <= labels.min() <= labels.max() < clusterer.n_clusters
        ):
            raise _damaged("its labels do not belong to its rows")


def _fill_layers(clusterer: UMAPHDBSCAN, header: Mapping[str, Any], found: Mapping[str, Tensor]) -> None:
    """Restore the layer that counts."""
    rows, cores, layers = (found[each] for each in SHAPES["UMAPHDBSCAN"])
    size = header.get("min_cluster_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 2):
        raise _damaged(f"its header names min_cluster_size {size!r}")
    fits = layers.numel() and len(rows) == len(cores) == layers.shape[1]
    whole = fits and all(len(torch.unique(each[each >= 0])) == 1 + int(each.max()) for each in layers)
    k = clusterer.layer
    if not whole or layers.min() < -1 or k not in (1 + layers.amax(1)).tolist():
        raise _damaged("its layers do not belong to its rows")
    assert k is not None
    clusterer.take_layer(k)


def _checked(
    name: str, tensor: Shaped[Tensor, "..."] | None, shape: tuple[str, ...], k: int, d: int
) -> Shaped[Tensor, "..."]:
    """The tensor, if it is there with the right shape and type."""
    sizes = {"k": k, "d": d, "hidden": HIDDEN, "bottleneck": BOTTLENECK}
    if tensor is None:
        raise _damaged(f"it has no {name}")
    fits = tensor.ndim == len(shape) and all(
        size == sizes.get(symbol, size) for size, symbol in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise _damaged(f"its {name} has shape {tuple(tensor.shape)}")
    right = tensor.dtype == torch.int64 if name in WHOLE_NUMBERS else tensor.is_floating_point()
    if not right or not torch.isfinite(tensor).all():
        raise _damaged(f"its {name} holds NaN, infinity or another kind of numbers")
    return tensor


def _count(header: Mapping[str, Any], name: str, least: int = 1) -> int:
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _damaged(f"its header names {name} {value!r}")
    return value


def _damaged(what: str) -> UserError:
    return UserError(
        f"this clustering cannot be used again, {what}: it is damaged or of another version, so cluster again."
    )
