"""A feature matrix as k-means and mixtures see it, read in chunks so that no second copy is held."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from shoal import distributed, job
from shoal.errors import UserError
from shoal.mapped import release, released, scratch

ClusteringMethod = Literal["kmeans", "umap-kmeans", "gmm", "temi", "density"]


@dataclass(frozen=True)
class Shards:
    """Communication between ranks that hold a share of the rows each; none if ``cut`` is false.

    The caller says so, because a rank may also cluster rows that only it has.
    """

    cut: bool

    def sum(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum over all ranks."""
        return distributed.sum_over_ranks(values) if self.cut else values

    def gather(self, rows: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "all_b ..."]:
        """The rows of all ranks, in rank order."""
        return distributed.gather_uneven(rows) if self.cut else rows

    def on_first(self, own: Shaped[Tensor, "b ..."], n: int) -> Shaped[Tensor, "all_b ..."]:
        """The n rows of which each rank has its ``part``: on the first rank, in a scratch file; on others none."""
        if not self.cut:
            return own
        whole = scratch((n if distributed.is_first() else 0, *own.shape[1:]), own.dtype)
        distributed.rows_on_first(own, whole)
        release(whole)
        return whole

    def agree(self, values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The first rank's values: what each rank computes for itself may differ in the last digit."""
        return distributed.from_first_rank(values) if self.cut else values

    def tensors_of_first(self, make: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """What the first rank makes, alone and once, on the host."""
        return job.tensors_of_first(make) if self.cut else list(make())

    def part(self, n: int) -> slice:
        """This rank's share of n rows that all ranks see."""
        return distributed.part(n) if self.cut else slice(0, n)

    def total(self, n: int) -> int:
        """How many rows the ranks hold together."""
        return int(self.sum(torch.tensor(n)))

    def before(self, value: Shaped[Tensor, ""]) -> Shaped[Tensor, ""]:
        """The sum of a value over the lower ranks."""
        return self.gather(value[None])[: distributed.rank()].sum() if self.cut else torch.zeros_like(value)


LOCAL = Shards(cut=False)


_IN_CENTRAL_POINT = 1024  # rows whose median stands for that of all

Metric = Literal["euclidean", "cosine"]

FEW_COLUMNS = 16
"""Fewer columns are measurements, whose distance counts, rather than an embedding, whose direction does."""


def default_metric(n_columns: int) -> Metric:
    """The metric of features of which nothing is known but their columns; of two, the cosine would leave an angle."""
    return "euclidean" if n_columns < FEW_COLUMNS else "cosine"


class Rows:
    """Rows in at least ``dtype``: at unit length for the cosine, else minus ``shift``.

    Both metrics then use squared Euclidean distances: for unit vectors, 1 − cos = ‖x − y‖² / 2. Subtracting a point
    near the data keeps ‖x‖² − 2x·y + ‖y‖² exact in float32 for data far from the origin.
    """

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        metric: Metric,
        shift: Float[Tensor, "d"] | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        weights: Float[Tensor, "n"] | None = None,
        unit: bool = False,
    ) -> None:
        """``weights`` say how often each row counts; ``unit`` that all rows have unit length already."""
        if metric not in get_args(Metric):
            raise UserError(f"there is no metric {metric!r}: give one of {', '.join(get_args(Metric))}.")
        if features.ndim != 2 or features.is_complex() or features.layout != torch.strided or not features.shape[1]:
            what = f"a tensor {tuple(features.shape)} of {features.dtype}, {features.layout}"
            raise UserError(f"the features are {what}: give real numbers (n, d), dense, in one column at least.")
        self.features = features.detach() if features.is_floating_point() else features.double()
        features = self.features
        self.metric = metric
        self.dtype = torch.promote_types(features.dtype, dtype)
        self.shift = (features.new_zeros(features.shape[1]) if shift is None else shift).to(self.dtype)
        self.weights = weights
        self.unit = unit
        # No copy where none is needed: embeddings have unit length, and most other features lie near the origin.
        self._as_they_are = unit if metric == "cosine" else not self.shift.any()

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Int64[Tensor, "*m"] | slice) -> Float[Tensor, "*m d"]:
        x = self.features[index]
        return x.to(self.dtype) if self._as_they_are else self.prepare(x)

    def prepare(self, x: Float[Tensor, "*m d"]) -> Float[Tensor, "*m d"]:
        """Vectors such as centres in the coordinates of the rows; NaN for a zero vector under the cosine."""
        x = x.to(self.dtype)
        if self.metric == "cosine":
            length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            info = torch.finfo(x.dtype)
            if ((length < info.tiny**0.5 / info.eps) | (length > info.max**0.5)).any():  # its square has lost digits
                x = x / x.abs().amax(-1, keepdim=True)
                length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return x / length
        return x - self.shift

    def parts(self, n_columns: int) -> Iterator[slice]:
        """Slices of the rows; ``n_columns`` is the number of values computed for each row."""
        # A chunk and its results fit into a CPU's cache, or fill a GPU.
        values = 2**24 if self.features.is_cuda else 2**20
        size = max(1, values // max(self.features.shape[1], n_columns))
        parts = (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))
        return released(parts, self.features)

    def chunks(self, n_columns: int) -> Iterator[tuple[slice, Float[Tensor, "b d"]]]:
        """Slices, and the rows in them."""
        for part in self.parts(n_columns):
            yield part, self[part]

    @cached_property
    def squared_lengths(self) -> Float[Tensor, "n 1"]:
        """‖x‖² of each row."""
        if self.metric == "cosine":
            return self.shift.new_ones(1, 1).expand(len(self), 1)
        lengths = self.shift.new_ones(len(self), 1)
        for part, x in self.chunks(1):
            lengths[part] = torch.linalg.vector_norm(x, dim=1, keepdim=True).square()
        return lengths

    def moments(self, shards: Shards = LOCAL) -> tuple[Float[Tensor, "d"], float]:
        """Weighted mean of the rows, of all ranks' if they are shards, and their variance averaged over the dimensions.

        Raises:
            UserError: a value is NaN or infinite, squares overflow or vanish, or a row is zero and the metric the
                cosine.
        """
        total = self.shift.new_zeros(self.shift.shape, dtype=torch.float64)
        squares, reach = total.new_zeros(()), total.new_zeros(())
        pivot = self._pivot()
        for part, x in self.chunks(1):
            away, weights = x - pivot, self.weights_of(part)
            lengths = torch.linalg.vector_norm(away).double().square()
            reach += lengths
            if weights is not None:
                away = away.double() * weights.double().sqrt()[:, None]
                lengths = away.square().sum()
                away *= weights.double().sqrt()[:, None]
            total += away.sum(0)
            squares += lengths
        own_weight = total.new_tensor(len(self)) if self.weights is None else self.weights.sum(dtype=torch.float64)
        weight = shards.sum(own_weight)
        some = own_weight.clamp(min=torch.finfo(torch.float64).tiny)
        own = pivot.double() + total / some
        mean = shards.sum(own * own_weight) / weight
        within = squares - total.square().sum() / some
        variance = float(shards.sum(within + own_weight * (own - mean).square().sum()) / weight / len(mean))
        info = torch.finfo(self.dtype)
        # Four times the largest sum of squares that is made of a chunk, and the least square that has all its digits.
        largest = variance * len(mean) * shards.total(len(self))
        if self.weights is not None:
            largest = max(largest, float(shards.sum(reach)))
        if not largest < info.max / 4:
            raise invalid_features_error(self.features, shards)
        if variance < info.tiny / info.eps and self._differ(pivot, shards):
            raise too_near(self.dtype)
        return mean.to(self.dtype), max(variance, 0.0)

    def _pivot(self) -> Float[Tensor, "d"]:
        """A row that counts, so that sums of squares about it cancel little; without rows the origin."""
        if not len(self):
            return self.shift
        first = 0 if self.weights is None else int((self.weights > 0).byte().argmax())
        return self[first : first + 1].mean(0)

    def _differ(self, pivot: Float[Tensor, "d"], shards: Shards) -> bool:
        """Whether rows that count differ from the pivot."""
        differences = torch.zeros((), dtype=torch.int64, device=pivot.device)
        for part, x in self.chunks(1):
            weights = self.weights_of(part)
            differences += ((x if weights is None else x[weights > 0]) != pivot).sum()
        return bool(shards.sum(differences))

    @property
    def each_weight(self) -> Float[Tensor, "n"]:
        """How often each row counts; by default once."""
        return self.squared_lengths.new_ones(len(self)) if self.weights is None else self.weights

    def weighted(self, values: Float[Tensor, "b"], part: slice = slice(None)) -> Float[Tensor, "b"]:
        """A value of each row, or of a slice of them, times its weight."""
        weights = self.weights_of(part)
        return values if weights is None else values * weights

    def weights_of(self, part: slice) -> Float[Tensor, "b"] | None:
        """Weights of a slice of rows, None if all count once."""
        return None if self.weights is None else self.weights[part]

    def distance(self, squared: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
        """The metric's distance ‖x − y‖ or 1 − cos, from the squared Euclidean distance of rows."""
        return squared / 2 if self.metric == "cosine" else squared.sqrt()


def invalid_features_error(features: Float[Tensor, "n d"], shards: Shards = LOCAL) -> UserError:
    """The error for rows that have no distances."""
    bad = torch.stack([(~torch.isfinite(features)).any(1).sum(), (features == 0).all(1).sum()])
    n_bad, n_zero = shards.sum(bad).tolist()
    n = shards.total(len(features))
    if n_bad:
        return UserError(
            f"{n_bad} of {n} rows of features hold NaN or infinity: leave them out, or find their cause (a training "
            "that diverged, a division by zero)."
        )
    if n_zero:
        return UserError(
            "a row of features is zero and has no cosine: leave it out, use metric='euclidean', or find its cause "
            "(a training that diverged)."
        )
    return too_far(features)


def too_far(features: Float[Tensor, "n d"]) -> UserError:
    """The error for distances that overflow in this precision."""
    return UserError(
        f"rows of features are so far apart that their squared distances overflow in {features.dtype}: divide them "
        "all by a constant, or leave the farthest out."
    )


def too_near(dtype: torch.dtype) -> UserError:
    """The error for differences whose squares have lost digits in this precision."""
    return UserError(f"the rows differ so little that squares vanish in {dtype}: divide all by their largest.")


def vanishes(largest: float, dtype: torch.dtype) -> bool:
    """Whether the squares of differences lose digits of which this is the largest."""
    info = torch.finfo(dtype)
    return 0 < largest < math.sqrt(info.tiny / info.eps)


def distinct_rows(features: Shaped[Tensor, "n d"]) -> tuple[Int64[Tensor, "m"], Int64[Tensor, "n"]]:
    """The first of each of the m rows that differ, in their order, and which of these every row is equal to."""
    rows = np.ascontiguousarray(features.detach().cpu().numpy() + 0)  # of -0.0 it makes 0.0, which is equal to it
    whole = rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0]
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.argsort(order)
    return torch.from_numpy(first[order]).to(features.device), torch.from_numpy(place[inverse]).to(features.device)


def count_distinct(chunks: Iterable[Float[Tensor, "_ d"]], most: int) -> int:
    """How many rows differ, up to ``most``, from where on no more chunks are read."""
    distinct: Tensor | None = None
    for x in chunks:
        distinct = torch.unique(x if distinct is None else torch.cat([distinct, x]), dim=0)
        if len(distinct) >= most:
            return most
    return 0 if distinct is None else len(distinct)


def coincide(features: Float[Tensor, "n d"], metric: Metric) -> bool:
    """Whether all rows are one point, or for the cosine share one direction but for rounding."""
    rows = Rows(features, metric)
    if metric == "euclidean":
        return all(bool((rows.features[part] == rows.features[:1]).all()) for part in rows.parts(1))
    first, angle = rows[:1], angle_of_rounding(rows)
    return all(bool((torch.linalg.vector_norm(x - first, dim=1) <= angle).all()) for _, x in rows.chunks(1))


def angle_of_rounding(rows: Rows) -> float:
    """By how much rounding to the features' own precision turns a row, such as a multiple of another."""
    return torch.finfo(rows.features.dtype).eps + 4 * torch.finfo(rows.dtype).eps


def directions(means: Float64[Tensor, "k d"], before: Float[Tensor, "k d"]) -> Float64[Tensor, "k d"]:
    """Means at unit length; where directions cancel, any centre is as good, and the one ``before`` is kept."""
    length: Tensor = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    found: Tensor = torch.where(length > 1e-6, means / length, before.double())
    return found


def squared_distances(x: Float[Tensor, "b d"], points: Float[Tensor, "m d"]) -> Float[Tensor, "b m"]:
    """‖x − y‖² for all pairs, less the ‖x‖² that the nearest point does not depend on."""
    return torch.addmm(points.square().sum(1), x, points.T, alpha=-2)


def central_point(rows: Rows, among: Int64[Tensor, "m"]) -> Float[Tensor, "d"]:
    """Median of about a thousand of some rows, which a single far row does not move, as it would a mean."""
    return rows[among[:: -(-len(among) // _IN_CENTRAL_POINT)]].median(0).values


def power_of_two(x: Float[Tensor, "n d"]) -> float:
    """The largest power of two that no value exceeds in size: divided by it, no square overflows or vanishes.

    Such a division changes no digit. It is 1 where all values are zero, or one is not finite.
    """
    largest = float(x.abs().max()) if x.numel() else 0.0
    return math.ldexp(0.5, math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0


def subsample(n: int, most: int, generator: torch.Generator) -> Int64[Tensor, "m"]:
    """Numbers of at most ``most`` of n rows, drawn at random, ascending; all of them, without a draw, if n is less."""
    return torch.arange(n) if n <= most else draw_rows(n, most, generator).sort().values


PERMUTED = 2**22
"""Rows up to which a draw is the beginning of a permutation of all: of 10⁷ that would take 80 MB."""


def draw_rows(n: int, m: int, generator: torch.Generator) -> Int64[Tensor, "m"]:
    """Numbers of m of n rows, or of all if these are fewer, drawn at random, in random order."""
    device = generator.device
    if n <= PERMUTED or m >= n:
        return torch.randperm(n, generator=generator, device=device)[:m]
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    return torch.from_numpy(np.random.default_rng(seed).choice(n, m, replace=False)).to(device)


def unit_length(x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Rows at unit length, also those whose squares overflow or vanish; of a zero row NaN.

    As ``Rows.prepare``, but without a branch that depends on the data, which an exported network cannot have.
    """
    x = x / x.abs().amax(1, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / length
