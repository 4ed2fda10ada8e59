"""Where the results of the other layers of a clustering by density are."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from shoal.clustering import UMAPHDBSCAN
from shoal.folder import ResultFolder
from shoal.results.result import Result


def layer_folders(result: Result, n_clusters: int) -> list[Path]:
    """Where a layer may be: the folder that the first layer was made in, then one called after its number as well."""
    folder = ResultFolder(result.folder.place).path
    own = f"-{getattr(result.clusterer, 'n_clusters_', '')}"  # of the layer that the folder is called after
    first = folder.with_name(folder.resolve().name.removesuffix(own) or folder.resolve().name)
    return [first, first.with_name(f"{first.name}-{n_clusters}")]


def layer_command(result: Result, n_clusters: int) -> str:
    """The shell command that makes a result of another layer."""
    folder, out = ResultFolder(result.folder.place).path, layer_folders(result, n_clusters)[-1]
    return shlex.join(["shoal", "cluster", str(folder), "-k", str(n_clusters), "--out", str(out)])


def is_layer(found: Result, result: Result, n_clusters: int) -> bool:
    """Whether ``found`` is the layer with this many clusters of the density of ``result``."""
    mine, theirs = result.clusterer, found.clusterer
    if not isinstance(mine, UMAPHDBSCAN) or not isinstance(theirs, UMAPHDBSCAN):
        return False
    return _same_rows(mine, theirs) and n_clusters in (theirs.n_clusters_, found.asked)


def _same_rows(one: UMAPHDBSCAN, other: UMAPHDBSCAN) -> bool:
    """Whether both embedded the same rows; a layer that has lost a cluster lacks the rows of that."""
    rows, others = ({row.tobytes() for row in torch.as_tensor(each.rows_).cpu().numpy()} for each in (one, other))
    return rows <= others or others <= rows
