"""The neighbour graph over which labels spread, and the coordinates in which neighbours are found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from shoal.clustering import nearest_neighbours
from shoal.clustering.rows import Metric, Rows, invalid_features_error, power_of_two, subsample
from shoal.errors import UserError
from shoal.tensors import read_tensors, write_tensors

N_NEIGHBOURS = 20
COMPONENTS = 128
"""More columns are replaced by this many principal components, which keep nearly all that tells images apart."""

MOST_ROWS = 50_000
"""Of more rows a sample of that size is in the graph; the head that is learned there is applied to all."""

_SAMPLED = 20_000  # rows that principal components are computed from
_KIND = "neighbour graph"


@dataclass(frozen=True, eq=False)
class Coordinates:
    """z = (x − mean) · axes, where x has unit length under the cosine; rows z have a mean squared length of about 1."""

    metric: Metric
    mean: Float32[Tensor, "d"]
    axes: Float32[Tensor, "d c"]

    @classmethod
    def fit(cls, features: Float[Tensor, "n d"], metric: Metric, seed: int = 0) -> Coordinates:
        """Principal components of the rows, not scaled among themselves, computed from at most 20 000 of them.

        Raises:
            UserError: NaN, infinity, no rows, a zero row under the cosine.
        """
        rows = Rows(features, metric)
        if not len(rows):
            raise UserError("there are no rows of features: give at least one.")
        drawn = subsample(len(rows), _SAMPLED, torch.Generator().manual_seed(seed)).to(features.device)
        sample = rows[drawn].cpu()
        mean = sample.mean(0, dtype=torch.float64)
        centred = sample - mean
        unit = power_of_two(centred)
        centred = (centred / unit).float()
        if not torch.isfinite(centred.sum()) and not torch.isfinite(centred).all():
            raise invalid_features_error(features)
        c = min(COMPONENTS, centred.shape[1])
        axes = torch.linalg.eigh((centred.T @ centred).double()).eigenvectors.flip(1)[:, :c].float()
        # eigh leaves the signs open: here the largest entry of an axis is positive.
        axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0)[None]) < 0, -1.0, 1.0)
        size, reach = (unit * each.square().sum(1).mean().sqrt() for each in (centred @ axes, (sample.double() / unit)))
        # Rows that coincide have no size, and their rounding must not be blown up.
        scale = float(size) if size > 1e-6 * reach else 1.0
        return cls(metric, mean.float(), (axes / scale).contiguous())

    def of(self, features: Float[Tensor, "n d"]) -> Float32[Tensor, "n c"]:
        """The coordinates of rows, read in chunks, on the CPU.

        Raises:
            UserError: another number of columns, NaN, infinity, a zero row under the cosine.
        """
        self.check(features)
        rows = Rows(features, self.metric)
        found = torch.empty(len(rows), self.axes.shape[1])
        for part, x in rows.chunks(self.axes.shape[1]):
            found[part] = (x.cpu() - self.mean).float() @ self.axes
        if not torch.isfinite(found.sum()) and not torch.isfinite(found).all():
            raise invalid_features_error(features)
        return found

    def check(self, features: Float[Tensor, "n d"]) -> None:
        """Refuse features of another width.

        Raises:
            UserError: says which is expected.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UserError(f"the features are {tuple(features.shape)}: give (n, {len(self.mean)}), like the graph's.")


@dataclass(frozen=True, eq=False)
class Graph:
    """The twenty nearest rows of each row in ``coordinates``, nearest first.

    ``rows`` are the m rows of the features that are in the graph, ascending: all n, or a sample of 50 000. ``index``
    counts among them.
    """

    coordinates: Coordinates
    n: int
    rows: Int64[Tensor, "m"]
    index: Int32[Tensor, "m j"]
    distances: Float32[Tensor, "m j"]

    @classmethod
    def build(cls, features: Float[Tensor, "n d"], metric: Metric, *, seed: int = 0) -> Graph:
        """Find the exact neighbours of all rows, or among a sample of 50 000; of 10 000 it takes 2 s on a core.

        Raises:
            UserError: NaN, infinity, no rows, a zero row under the cosine.
        """
        coordinates = Coordinates.fit(features, metric, seed)
        n = len(features)
        rows = subsample(n, MOST_ROWS, torch.Generator().manual_seed(seed))
        z = coordinates.of(features if len(rows) == n else features[rows.to(features.device)])
        j = min(N_NEIGHBOURS, len(z) - 1)
        if not j:
            return cls(coordinates, n, rows, torch.empty(1, 0, dtype=torch.int32), torch.empty(1, 0))
        index, distances = nearest_neighbours(z, j, "euclidean")
        return cls(coordinates, n, rows, index.int(), distances.float())

    def check(self, features: Float[Tensor, "n d"]) -> None:
        """Refuse features that the graph is not of.

        Raises:
            UserError: another number of rows or columns.
        """
        self.coordinates.check(features)
        if len(features) != self.n:
            raise UserError(f"the graph is of {self.n} rows, the features have {len(features)}: build it anew.")

    def save(self, path: Path) -> None:
        """Write it as safetensors, atomically."""
        tensors = {"rows": self.rows, "index": self.index, "distances": self.distances}
        tensors |= {"mean": self.coordinates.mean, "axes": self.coordinates.axes}
        write_tensors(path, {"kind": _KIND, "metric": self.coordinates.metric, "n": self.n}, tensors)

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read what ``save`` wrote.

        Raises:
            UserError: the file is damaged, of a newer version or holds something else.
        """
        header, tensors = read_tensors(path)
        metric: Metric = header.get("metric")  # type: ignore[assignment]  # checked below
        n = header.get("n")
        known = header.get("kind") == _KIND and metric in get_args(Metric)
        if not known or not isinstance(n, int) or not _fits(tensors, n):
            raise UserError(f"{path} holds no neighbour graph, or a damaged one: remove it, and it is built anew.")
        coordinates = Coordinates(metric, tensors["mean"], tensors["axes"])
        return cls(coordinates, n, tensors["rows"], tensors["index"], tensors["distances"])

    @cached_property
    def similarities(self) -> sp.csr_array:
        """S = D^−½ W D^−½, float32 (m, m): W_ij = 1 where i is among the nearest of j or j of i, D its row sums."""
        m, j = self.index.shape
        columns = self.index.numpy().ravel()
        rows = np.repeat(np.arange(m, dtype=columns.dtype), j)
        one_way = sp.csr_array((np.ones(len(columns), dtype=np.float32), (rows, columns)), shape=(m, m))
        both_ways = one_way.maximum(one_way.T).tocsr()
        degrees = np.diff(both_ways.indptr)
        scale = (1 / np.sqrt(np.maximum(degrees, 1))).astype(np.float32)
        both_ways.data = np.repeat(scale, degrees) * scale[both_ways.indices]
        return both_ways


def _fits(tensors: dict[str, Tensor], n: int) -> bool:
    """Whether the tensors are those of a graph of n rows."""
    if tensors.keys() != {"rows", "index", "distances", "mean", "axes"}:
        return False
    rows, index, distances = tensors["rows"], tensors["index"], tensors["distances"]
    mean, axes = tensors["mean"], tensors["axes"]
    if rows.dtype != torch.int64 or index.dtype != torch.int32 or index.ndim != 2 or axes.ndim != 2 or rows.ndim != 1:
        return False
    if index.shape != distances.shape or len(rows) != len(index) or mean.shape != axes.shape[:1] or not len(rows):
        return False
    if not bool((rows.diff() > 0).all()) or rows[0] < 0 or rows[-1] >= n:
        return False
    inside = not index.numel() or (int(index.min()) >= 0 and int(index.max()) < len(rows))
    return inside and all(bool(torch.isfinite(each).all()) for each in (distances, mean, axes))
