"""``shoal cluster``: from features to a finished result."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from jaxtyping import Float, Int64
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from shoal import cores, distributed, job
from shoal.clustering import (
    TEMI,
    UMAPHDBSCAN,
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
from shoal.clustering.density import in_series
from shoal.clustering.occupied import renumbered, restricted
from shoal.clustering.rows import Metric, Shards
from shoal.clustering.saved import Sharded, Unsupervised, clusterer_from, state_of
from shoal.clustering.temi.estimator import MAX_ROWS as TEMI_ROWS
from shoal.clustering.umap import MAX_ROWS as UMAP_ROWS
from shoal.errors import UserError
from shoal.files import atomic_write
from shoal.folder import CLUSTERING_CONFIG, ResultFolder
from shoal.progress import Progress
from shoal.report import write_suggestion
from shoal.results.chosen import as_flags
from shoal.results.finish import Outcome, measure, write_measured
from shoal.results.inputs import Inputs, of_result
from shoal.results.layers import is_layer, layer_command, layer_folders
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
    n_clusters: int | None,
    method: ClusteringMethod,
    metric: Metric,
    seed: int | None,
    folder: ResultFolder,
    progress: Progress,
    min_cluster_size: int | None = None,
) -> Outcome | None:
    """Cluster rows and write the result, without the clusters that no row is in.

    The processes of a job call it together. Those but the first have their share of what can be shared, and return
    None.

    Args:
        inputs: the rows.
        n_clusters: None leaves it to the density. Of a result by density it chooses a layer, and nothing is fitted.
        method: of clustering.
        metric: of the distances.
        seed: random seed; None takes that of an earlier result whose layer is chosen, else 0.
        folder: to write.
        progress: reports what takes long.
        min_cluster_size: for the density alone; None takes that of an earlier result by density.

    Raises:
        UserError: there are fewer rows than clusters, they cannot be clustered so, no group is dense, no layer has so
            many clusters, or the folder cannot be written.
    """
    shards = Shards(distributed.world_size() > 1)
    layers, seed = earlier_layers(inputs, method, metric, seed, min_cluster_size), seed or 0
    if layers is not None and n_clusters is not None:
        assert inputs.earlier is not None
        seed, how = inputs.earlier.seed, f"a layer of the density in {inputs.earlier.folder.path}; nothing was fitted"
        clusterer, found = _layer(layers, n_clusters, inputs)
    else:
        unfitted = _unfitted(inputs, n_clusters, method, metric, seed, min_cluster_size)
        how = how_fitted(unfitted, len(inputs))
        clusterer, found = _fitted(unfitted, inputs, progress)
    labels, occupied = renumbered(found)
    found_k = n_clusters or int(getattr(clusterer, "n_clusters_", 0))
    if len(occupied) < found_k:
        clusterer = restricted(clusterer, occupied)
    own = shards.part(len(inputs))
    result = Result(
        folder=folder,
        method=method,
        clusterer=clusterer,
        centers=cluster_centers(inputs.features[own], labels[own], len(occupied), metric, shards),
        metric=metric,
        seed=seed,
        source=inputs.source,
        root=inputs.root,
        features_at=Path(inputs.features_at) if inputs.features_at else folder.features,
        encoder=inputs.encoder,
        joined=inputs.joined,
        every=inputs.every,
        asked=n_clusters or len(occupied),
    )
    measured = measure(result, inputs, labels, shards)
    if not distributed.is_first():
        return None
    with folder.alone(), cores.all_cores():  # the others are done
        folder.sweep()
        atomic_write(folder.config, config_of(result).encode())
        outcome = write_measured(measured, inputs)
        result = measured.result
        return replace(outcome, how=how, layers={k: layer_command(result, k) for k in result.layers})


def _layer(layers: UMAPHDBSCAN, n_clusters: int, inputs: Inputs) -> tuple[Clusterer, Int64[Tensor, "n"]]:
    """A layer of a density, and the cluster of each row there.

    Raises:
        UserError: no layer has this many clusters.
    """
    layer = layers.with_clusters(n_clusters)
    [found] = job.tensors_of_first(lambda: [torch.as_tensor(layer.predict(inputs.features))])
    return layer, found


def _unfitted(
    inputs: Inputs,
    n_clusters: int | None,
    method: ClusteringMethod,
    metric: Metric,
    seed: int,
    min_cluster_size: int | None,
) -> Unsupervised:
    """What will be fitted, the same in all processes of a job.

    Raises:
        UserError: as ``build_clusterer``.
    """
    if method == "density" and min_cluster_size is None and inputs.earlier is not None:
        min_cluster_size = getattr(inputs.earlier.clusterer, "min_cluster_size", None)
    row_bytes = inputs.features.nbytes // len(inputs) // cores.n_nodes()  # each machine reads its part
    found = build_clusterer(
        method,
        n_clusters,
        metric=metric,
        seed=seed,
        n=len(inputs),
        row_bytes=row_bytes,
        min_cluster_size=min_cluster_size,
    )
    if distributed.any_rank(isinstance(found, MiniBatchKMeans)):  # some machine has too little memory
        assert n_clusters is not None
        return MiniBatchKMeans(n_clusters, metric=metric, random_state=seed)
    return found


def earlier_layers(
    inputs: Inputs, method: ClusteringMethod, metric: Metric, seed: int | None, min_cluster_size: int | None
) -> UMAPHDBSCAN | None:
    """The layers of a result by density that is clustered again, if only another number of clusters is asked for."""
    earlier = inputs.earlier
    if earlier is None or method != "density" or not isinstance(earlier.clusterer, UMAPHDBSCAN):
        return None
    same = metric == earlier.metric and seed in (None, earlier.seed)
    return earlier.clusterer if same and min_cluster_size in (None, earlier.clusterer.min_cluster_size) else None


def layer_result(result: Result, n_clusters: int) -> Result:
    """The result of a layer: that which is there, or a new one, for which nothing is embedded or fitted.

    Raises:
        UserError: there is no such layer, or the folder for it holds something else or cannot be written.
    """
    if not isinstance(result.clusterer, UMAPHDBSCAN):
        raise UserError(f"{result.folder.path} was not clustered by density: it has no layers.")
    result.clusterer.with_clusters(n_clusters)  # or it says which there are
    for path in layer_folders(result, n_clusters):
        if ResultFolder(path).is_finished and is_layer(found := Result.load(path), result, n_clusters):
            return found
    folder = ResultFolder(path)
    folder.check_free(resumable=True)
    progress = Progress()
    cluster(of_result(result, folder, progress), n_clusters, "density", result.metric, result.seed, folder, progress)
    return Result.load(path)


def _fitted(clusterer: Unsupervised, inputs: Inputs, progress: Progress) -> tuple[Clusterer, Int64[Tensor, "n"]]:
    """The clusterer fitted to the rows, and the cluster of each.

    Where its sums can be shared, each process of a job has a part of the rows; else the first fits it, and the others
    get what came of it.

    Raises:
        UserError: as ``cluster``.
    """
    if distributed.world_size() == 1:
        _fit(clusterer, inputs.features, inputs, progress)
        return clusterer, torch.as_tensor(clusterer.labels_)
    if isinstance(clusterer, Sharded):
        clusterer.sharded = True
        _fit(clusterer, inputs.features[distributed.part(len(inputs))], inputs, progress)
        clusterer.sharded = False
        return clusterer, distributed.gather_uneven(torch.as_tensor(clusterer.labels_))
    tensors: dict[str, Tensor] = {}

    def fitted() -> str:
        _fit(clusterer, inputs.features, inputs, progress)
        header, state = state_of(clusterer)
        tensors.update(state)
        return json.dumps({"header": header, "names": [*state]})

    told = json.loads(job.of_first(fitted))
    labels, *state = job.tensors_of_first(lambda: [torch.as_tensor(clusterer.labels_), *tensors.values()])
    if distributed.is_first():
        return clusterer, labels
    return clusterer_from(told["header"], dict(zip(told["names"], state, strict=True))), labels


def _fit(clusterer: Unsupervised, features: Float[Tensor, "n d"], inputs: Inputs, progress: Progress) -> None:
    """Fit it, telling what it warns of.

    Raises:
        UserError: as ``cluster``.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # the outcome says so
        if isinstance(clusterer, TEMI):
            clusterer.fit(features, after_epoch=progress.counter("training heads"))
        else:
            clusterer.fit(features)
    for each in told:
        progress.warn(str(each.message))
    if isinstance(clusterer, UMAPHDBSCAN) and not clusterer.n_clusters_:
        raise _nothing_dense(clusterer, inputs)


def _nothing_dense(clusterer: UMAPHDBSCAN, inputs: Inputs) -> UserError:
    """The error for rows without any dense group."""
    n, distinct, size = len(inputs), len(clusterer.rows_), clusterer.min_cluster_size_
    copies = f"only {distinct} of {n} {inputs.what} differ, and " if distinct < n <= UMAP_ROWS else ""
    ways = "lower --min-cluster-size (at least 2), " if size > 2 else ""
    ways += f"take {in_series(clusterer.choices_)} smaller clusters with -k, " if clusterer.choices_ else ""
    return UserError(
        f"{copies}no two groups of {size} {inputs.what} or more are denser than what lies between them, so that all "
        f"{n} would belong nowhere: {ways}{'or ' if ways else ''}cut them into parts with --method kmeans -k N."
    )


def how_fitted(clusterer: Clusterer, n: int) -> str:
    """What found the clusters of n rows, in words."""
    if isinstance(clusterer, MiniBatchKMeans):
        return "k-means by mini-batches: the features take up more than half of the memory"
    name, most = {
        KMeans: ("k-means", n),
        UMAPKMeans: ("UMAP and k-means", UMAP_ROWS),
        GaussianMixture: ("Gaussian mixture", n),
        TEMI: ("TEMI", TEMI_ROWS),
        UMAPHDBSCAN: ("UMAP and HDBSCAN", UMAP_ROWS),
    }[type(clusterer)]
    return f"{name} of all rows" if n <= most else f"{name} of {most:,} rows drawn at random, which the others joined"


def _smallest(result: Result) -> dict[str, int]:
    """The smallest cluster, where one was asked for."""
    size = getattr(result.clusterer, "min_cluster_size", None)
    return {} if size is None else {"min_cluster_size": size}


def config_of(result: Result) -> str:
    """The settings, for people to read; ``clustering.safetensors`` has them as well."""
    settings = {
        "source": result.source,
        **({"every": result.every} if result.every else {}),
        "n_clusters": result.asked,
        "method": result.method,
        **_smallest(result),
        "metric": result.metric,
        "seed": result.seed,
        "backbone": None
        if result.encoder is None
        else dict(zip(("name", "weights"), as_flags(result.encoder), strict=True)),
    }
    return CLUSTERING_CONFIG + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
