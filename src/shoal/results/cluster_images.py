"""``shoal cluster``: from features to a finished result."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from shoal.clustering import TEMI, ClusteringMethod, Suggestion, build_clusterer, cluster_centers, suggest_k
from shoal.clustering.rows import Metric
from shoal.files import atomic_write
from shoal.folder import CLUSTERING_CONFIG, ResultFolder
from shoal.progress import Progress
from shoal.report import write_suggestion
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
    """Cluster rows and write the result.

    Raises:
        UserError: there are fewer rows than clusters, they cannot be clustered so, or the folder cannot be written.
    """
    clusterer = build_clusterer(method, n_clusters, metric=metric, seed=seed, n=len(inputs))
    if isinstance(clusterer, TEMI):
        clusterer.fit(inputs.features, after_epoch=progress.counter("training heads"))
    else:
        clusterer.fit(inputs.features)
    labels = torch.as_tensor(clusterer.labels_)
    result = Result(
        folder=folder,
        method=method,
        clusterer=clusterer,
        centers=cluster_centers(inputs.features, labels, n_clusters, metric),
        metric=metric,
        seed=seed,
        source=inputs.source,
        root=inputs.root,
        features_at=Path(inputs.features_at) if inputs.features_at else folder.features,
        encoder=inputs.encoder,
    )
    atomic_write(folder.config, _config(result).encode())
    return finish(result, inputs, labels)


def _config(result: Result) -> str:
    """The settings, for people to read; ``clustering.safetensors`` has them as well."""
    settings = {
        "source": result.source,
        "n_clusters": len(result.centers),
        "method": result.method,
        "metric": result.metric,
        "seed": result.seed,
        "backbone": None
        if result.encoder is None
        else {"name": result.encoder.name, "weights": result.encoder.weights},
    }
    return CLUSTERING_CONFIG + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
