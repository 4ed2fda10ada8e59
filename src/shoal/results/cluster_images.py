"""``shoal cluster``: from features to a finished result."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from sklearn.exceptions import ConvergenceWarning

from shoal.clustering import (
    TEMI,
    Clusterer,
    ClusteringMethod,
    GaussianMixture,
    KMeans,
    MiniBatchKMeans,
    Suggestion,
    UMAPKMeans,
    build_clusterer,
    cluster_centers,
    suggest_k,
)
from shoal.clustering.occupied import renumbered, restricted
from shoal.clustering.rows import Metric
from shoal.clustering.temi.estimator import MAX_ROWS as TEMI_ROWS
from shoal.clustering.umap import MAX_ROWS as UMAP_ROWS
from shoal.files import atomic_write
from shoal.folder import CLUSTERING_CONFIG, ResultFolder
from shoal.progress import Progress
from shoal.report import write_suggestion
from shoal.results.chosen import as_flags
from shoal.results.finish import Outcome, finish
from shoal.results.inputs import Inputs
from shoal.results.result import Result

FORMAT = 2
"""Version of suggestion.json."""


def suggest(
    inputs: Inputs, k_range: tuple[int, int] | None, metric: Metric, seed: int, folder: ResultFolder
) -> Suggestion:
    """Rank numbers of clusters and write the scores of each."""
    suggestion = suggest_k(inputs.features, k_range, metric=metric, seed=seed)
    text = json.dumps({"format": FORMAT, "k": suggestion.k, **asdict(suggestion)}, indent=2, allow_nan=False)
    atomic_write(folder.suggestion, f"{text}\n".encode())
    write_suggestion(suggestion, folder.path.resolve().name, folder.suggestion_page)
    return suggestion


def cluster(
    inputs: Inputs,
    n_clusters: int,
    method: ClusteringMethod,
    metric: Metric,
    seed: int,
    folder: ResultFolder,
    progress: Progress,
) -> Outcome:
    """Cluster rows and write the result, without the clusters that no row is in.

    Raises:
        UserError: there are fewer rows than clusters, they cannot be clustered so, or the folder cannot be written.
    """
    row_bytes = inputs.features.nbytes // len(inputs)
    clusterer = build_clusterer(method, n_clusters, metric=metric, seed=seed, n=len(inputs), row_bytes=row_bytes)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        if isinstance(clusterer, TEMI):
            clusterer.fit(inputs.features, after_epoch=progress.counter("training heads"))
        else:
            clusterer.fit(inputs.features)
    for each in told:
        progress.warn(str(each.message))
    labels, occupied = renumbered(torch.as_tensor(clusterer.labels_))
    if len(occupied) < n_clusters:
        clusterer = restricted(clusterer, occupied)
    result = Result(
        folder=folder,
        method=method,
        clusterer=clusterer,
        centers=cluster_centers(inputs.features, labels, len(occupied), metric),
        metric=metric,
        seed=seed,
        source=inputs.source,
        root=inputs.root,
        features_at=Path(inputs.features_at) if inputs.features_at else folder.features,
        encoder=inputs.encoder,
        joined=inputs.joined,
        asked=n_clusters,
    )
    atomic_write(folder.config, config_of(result).encode())
    return replace(finish(result, inputs, labels), how=how_fitted(clusterer, len(inputs)))


def how_fitted(clusterer: Clusterer, n: int) -> str:
    """What found the clusters of n rows, in words."""
    if isinstance(clusterer, MiniBatchKMeans):
        return "k-means by mini-batches: the features take up more than half of the memory"
    name, most = {
        KMeans: ("k-means", n),
        UMAPKMeans: ("UMAP and k-means", UMAP_ROWS),
        GaussianMixture: ("Gaussian mixture", n),
        TEMI: ("TEMI", TEMI_ROWS),
    }[type(clusterer)]
    return f"{name} of all rows" if n <= most else f"{name} of {most:,} rows drawn at random, which the others joined"


def config_of(result: Result) -> str:
    """The settings, for people to read; ``clustering.safetensors`` has them as well."""
    settings = {
        "source": result.source,
        "n_clusters": result.asked,
        "method": result.method,
        "metric": result.metric,
        "seed": result.seed,
        "backbone": None
        if result.encoder is None
        else dict(zip(("name", "weights"), as_flags(result.encoder), strict=True)),
    }
    return CLUSTERING_CONFIG + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
