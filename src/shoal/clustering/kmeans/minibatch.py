"""Mini-batch k-means: reads a matrix a batch at a time and never copies or converts all of it."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from shoal.clustering.inputs import ArrayOrTensor, as_input_type, check_exact, tensor_on, warn_if_fewer
from shoal.clustering.kmeans.estimator import CentersEstimator, InitFunction
from shoal.clustering.kmeans.init import ROWS_PER_CLUSTER, candidates, random_seeds, seeds
from shoal.clustering.kmeans.nearest import to_points
from shoal.clustering.kmeans.restarts import Init, assign, first_of_direction, well_conditioned
from shoal.clustering.kmeans.running_means import RunningMeans, nearest
from shoal.clustering.parameters import (
    Array,
    centers_from,
    check_counts,
    check_n_clusters,
    check_not_negative,
    generator_from,
    hinting,
    weights_from,
)
from shoal.clustering.rows import LOCAL, Metric, Rows, Shards, angle_of_rounding, count_distinct
from shoal.errors import UserError
from shoal.mapped import is_known_map, known_map, release

FROM_MAP = 256
"""Rows read from a map before its pages are released: with each row the system maps about 64 KiB around it."""


class Source:
    """Rows of an array or a tensor, converted to floating point only when they are read."""

    def __init__(self, X: Shaped[Tensor, "n d"] | Array) -> None:
        self._values = X.detach() if isinstance(X, Tensor) else known_map(X, _tensor(X))
        self.device = self._values.device

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: slice | Int64[Tensor, "b"]) -> Float[Tensor, "b d"]:
        if isinstance(index, slice):
            x = self._values[index]
        elif not is_known_map(self._values):
            x = self._values.index_select(0, index.to(self.device))  # several times as fast as indexing
        else:
            starts = range(0, len(index), FROM_MAP)
            x = torch.cat([self._from_map(index[start : start + FROM_MAP]) for start in starts])
        release(self._values)
        return x if x.is_floating_point() else x.double()

    def _from_map(self, index: Int64[Tensor, "b"]) -> Shaped[Tensor, "b d"]:
        x: Tensor = self._values.index_select(0, index)
        release(self._values)
        return x


def _tensor(X: Array) -> Shaped[Tensor, "n d"]:
    try:
        return tensor_on(X)
    except (TypeError, ValueError):  # bytes in another order, rows backwards: torch has no such tensors
        return tensor_on(np.ascontiguousarray(X, dtype=np.float64))


BATCHES = 3
"""Number of batches whose rows seeds are drawn from, as in scikit-learn."""


class MiniBatchKMeans(CentersEstimator):
    """k-means for data that do not fit into memory, Euclidean or spherical, with scikit-learn's interface.

    Sculley, "Web-scale k-means clustering" (2010): each step draws a batch of rows and moves their nearest centres
    towards them, by one over the number of rows of a centre so far. ``fit`` reads an array, a tensor or a memory map a
    batch at a time; ``partial_fit`` takes the batches of a stream. For tensors it works on their device and returns
    tensors, as ``KMeans`` does.

    Args:
        n_clusters: k.
        metric: "euclidean", or "cosine" for spherical k-means: rows count by direction alone.
        init: initial centres: greedy "k-means++", the same among the candidates of "k-means||", from "random" rows; or
            the (k, d) centres, or a function that makes them, ``init(X, n_clusters, random_state=…)``.
        n_init: how many seeds are compared, on a sample of the rows; "auto" is 3.
        init_size: rows of that sample; None: three batches, or 16 for each cluster if that is more.
        batch_size: rows of a step of ``fit``.
        max_iter: the most passes over the data.
        tol: ``fit`` ends when the squared moves of the centres in a step sum to no more than this share of the
            features' variance; 0 disables this.
        max_no_improvement: ``fit`` ends when the smoothed inertia of the batches has not fallen for this many steps;
            None disables this.
        reassignment_ratio: centres with less than this share of the rows of the largest move to rows of the batch.
        verbose: whether to print the inertia of each batch.
        compute_labels: whether ``partial_fit`` also finds the clusters of its batch, which takes as long again.
        random_state: an int makes the result reproducible; None draws new seeds and batches each time.
        sharded: as in ``KMeans``, for ``fit`` without weights; each rank reads its own rows of a batch.

    Attributes:
        cluster_centers_: float (k, d), at unit length for the cosine.
        labels_: int64 (n,), the cluster of each row given to ``fit`` or last to ``partial_fit``.
        inertia_: of these rows: sum of the squared distances to the own centre (Euclidean), or of 1 − cos (cosine).
        variance_: σ² of ``predict_proba``; after ``partial_fit`` that of the last batch, before its step.
        counts_: float64 (k,), rows of each centre so far, which weigh it against those of the next batch.
        n_iter_: passes over the data that ``fit`` began.
        n_steps_: batches so far.
        n_features_in_: d.
    """

    labels_: Array | Tensor
    counts_: Array | Tensor

    @hinting
    def __init__(  # noqa: PLR0913 - a setting each
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "euclidean",
        init: Init | Array | Tensor | InitFunction = "k-means++",
        n_init: int | Literal["auto"] = "auto",
        init_size: int | None = None,
        batch_size: int = 1024,
        max_iter: int = 100,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        reassignment_ratio: float = 0.01,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: int | np.random.RandomState | None = None,
        sharded: bool = False,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.init_size = init_size
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.reassignment_ratio = reassignment_ratio
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.sharded = sharded

    def fit(self, X: ArrayOrTensor, y: object = None, sample_weight: Array | Tensor | None = None) -> MiniBatchKMeans:
        """Find the clusters of rows (n, d); ``y`` is ignored, and ``sample_weight`` (n,) says how often a row counts.

        Raises:
            UserError: fewer rows than clusters, NaN, infinity, a zero row under the cosine; weights that are
                not (n,) or negative; bad parameters.
        """
        source = self._source(X)
        weights = None if sample_weight is None else weights_from(sample_weight, source[:1].expand(len(source), -1))
        shards = Shards(self.sharded)
        if shards.cut and weights is not None:
            raise UserError("sharded=True takes no sample_weight: leave one of them out.")
        n = shards.total(len(source))
        self._check_parameters(n)
        self._generator = generator_from(self.random_state)
        equal = weights is None or bool((weights == weights[0]).all())
        edges = None if weights is None or equal else weights.cumsum(0, dtype=torch.float64)
        size = self._sample_size()
        if n <= size:
            sample = Rows(shards.gather(source[:]), self.metric, weights=weights)
        else:
            sample = Rows(shards.gather(source[self._drawn(size, n, edges, source)]), self.metric)
        bound = self.tol * self._start(X, sample)
        self.n_steps_ = self._steps(source, edges, bound)
        self.n_iter_ = math.ceil(self.n_steps_ * min(self.batch_size, n) / n)
        self._label(X, source, weights)
        return self

    def partial_fit(
        self, X: ArrayOrTensor, y: object = None, sample_weight: Array | Tensor | None = None
    ) -> MiniBatchKMeans:
        """Move the centres by one batch (b, d), the first of which holds k rows at least and starts them.

        Batches may differ in size. After ``fit`` it continues from its centres. ``n_init`` seeds are compared on the
        first batch; ``batch_size``, ``max_iter``, ``tol`` and ``max_no_improvement`` are not used.

        Raises:
            UserError: as ``fit``.
        """
        first = not self.__sklearn_is_fitted__()
        features = self._features(X, reset=first)
        weights = None if sample_weight is None else weights_from(sample_weight, features)
        if first:
            self._check_parameters(len(features))
            self._generator = generator_from(self.random_state)
            self._start(X, Rows(features, self.metric, weights=weights))
            self.n_steps_ = 0
        elif not hasattr(self, "_running"):
            self._resume()
        device = self._running.means.device
        rows = self._running.rows(features.to(device), None if weights is None else weights.to(device))
        squared = self._running.step(rows, self.reassignment_ratio, self._generator)
        self.n_steps_ += 1
        self.cluster_centers_ = as_input_type(X, self._found())
        weight = float(rows.each_weight.sum(dtype=torch.float64))
        self.variance_ = self._spread(squared, weight)
        self.counts_ = as_input_type(X, self._running.counts)
        if self.compute_labels:
            labels, distances, _ = assign(features, self._centers(features), self.metric)
            self.labels_ = as_input_type(X, labels)
            self.inertia_ = float(self._costs(distances, weights).sum())
        return self

    def _resume(self) -> None:
        """Go on from centres that were saved, with as many rows each as they had."""
        self._generator = generator_from(self.random_state)
        centers = torch.as_tensor(self.cluster_centers_)
        shift = centers.mean(0) if self.metric == "euclidean" else torch.zeros_like(centers[0])
        self._running = RunningMeans(centers - shift, self.metric, shift)
        self._running.counts += torch.as_tensor(self.counts_)
        self.n_steps_ = 0

    def _source(self, X: Array | Tensor) -> Source:
        """The rows, checked as by ``_features``, except for their values."""
        if isinstance(X, Tensor):
            self._features(X.to("meta"), reset=True)
        else:
            X = self._validated(X, reset=True, dtype="numeric")
        check_exact(X)
        return Source(X)

    def _check_parameters(self, n: int) -> None:
        check_n_clusters(n, n_clusters=self.n_clusters)
        check_counts(batch_size=self.batch_size, max_iter=self.max_iter)
        optional = {"max_no_improvement": self.max_no_improvement, "init_size": self.init_size}
        check_counts(**{name: value for name, value in optional.items() if value is not None})
        check_not_negative(tol=self.tol, reassignment_ratio=self.reassignment_ratio)

    def _sample_size(self) -> int:
        if self.init_size is None:
            return max(BATCHES * self.batch_size, ROWS_PER_CLUSTER * self.n_clusters)
        if self.init_size < self.n_clusters:
            warnings.warn(
                f"init_size={self.init_size} should be larger than n_clusters={self.n_clusters}. Setting it to "
                f"{BATCHES * self.n_clusters}.",
                RuntimeWarning,
                stacklevel=3,
            )
            return BATCHES * self.n_clusters
        return self.init_size

    def _start(self, X: Array | Tensor, sample: Rows) -> float:
        """Start from the best of several seeds; returns the variance of the sample, averaged over dimensions."""
        sample, variance = well_conditioned(sample)
        init, n_init = self._starts(X, sample.features.shape[1], usual=3)
        if isinstance(init, Tensor):
            shape = (self.n_clusters, sample.features.shape[1])
            starts = torch.stack([centers_from(each, sample, shape, "init").to(sample.dtype) for each in init])
        else:
            draw = random_seeds if init == "random" else seeds
            among = candidates(sample, self.n_clusters, self._generator, LOCAL) if init == "k-means||" else sample
            starts = draw(among, self.n_clusters, n_init, self._generator)
        start = self._best(sample, starts)
        self._tell("Initialization complete")
        self._running = RunningMeans(start, self.metric, sample.shift)
        return variance

    def _best(self, sample: Rows, starts: Float[Tensor, "r k d"]) -> Float[Tensor, "k d"]:
        weights = sample.each_weight

        def inertia(start: Float[Tensor, "k d"]) -> float:
            return sum(
                float(nearest(sample, x, start)[1].square() @ weights[part]) for part, x in sample.chunks(len(start))
            )

        best: Tensor = starts[0] if len(starts) == 1 else min(starts, key=inertia)
        return best

    def _steps(self, source: Source, edges: Float64[Tensor, "n"] | None, bound: float) -> int:
        """Run batches until convergence, for at most ``max_iter`` passes; returns how many."""
        shards = Shards(self.sharded)
        n = shards.total(len(source))
        size = min(self.batch_size, n)
        n_steps = self.max_iter * n // size
        smoothed, least, no_improvement = math.inf, math.inf, 0
        share = min(1.0, 2 * size / (n + 1))
        for step in range(1, n_steps + 1):
            before = self._running.centers
            batch = self._running.rows(source[self._drawn(size, n, edges, source)])
            inertia = self._running.step(batch, self.reassignment_ratio, self._generator, shards) / size
            if step == 1:  # inertia of the seeds
                continue
            smoothed = inertia if step == 2 else smoothed + share * (inertia - smoothed)
            no_improvement = 0 if smoothed < least else no_improvement + 1
            least = min(least, smoothed)
            self._tell(f"Minibatch step {step}/{n_steps}: mean batch inertia {inertia:g}, smoothed {smoothed:g}")
            if bound > 0 and float((self._running.centers - before).square().sum()) <= bound:
                self._tell(f"Converged (small centers change) at step {step}")
                return step
            if self.max_no_improvement is not None and no_improvement >= self.max_no_improvement:
                self._tell(f"Converged (lack of improvement in inertia) at step {step}")
                return step
        return n_steps

    def _tell(self, line: str) -> None:
        if self.verbose:
            sys.stdout.write(f"{line}\n")

    def _drawn(self, size: int, n: int, edges: Float64[Tensor, "n"] | None, source: Source) -> Int64[Tensor, "b"]:
        """Rows drawn with replacement, by their weights if they have some, in the order in which they lie on a disk.

        Of shards those among them that are this rank's.
        """
        if edges is None:
            drawn = torch.randint(n, (size,), generator=self._generator).sort().values
            if not self.sharded:
                return drawn
            drawn -= Shards(self.sharded).before(torch.tensor(len(source)))
            return drawn[(drawn >= 0) & (drawn < len(source))]
        draws = torch.rand(size, dtype=torch.float64, generator=self._generator).sort().values.to(edges.device)
        return torch.searchsorted(edges, draws * edges[-1], right=True).clamp(max=n - 1)

    def _label(self, X: ArrayOrTensor, source: Source, weights: Float[Tensor, "n"] | None) -> None:
        """Read all rows once for their clusters and inertia, and once more if clusters of one direction become one."""
        labels, total, reach = self._assigned(source, weights)
        merged = False
        if self.metric == "cosine":
            rounding = angle_of_rounding(self._running.rows(source[:1]))
            same = first_of_direction(self._running.centers, reach, rounding)
            merged = len(torch.unique(same)) < len(same)
            if merged:
                self._running.centers = self._running.centers[same]
                labels, total, _ = self._assigned(source, weights)
                labels = same[labels]
        self.inertia_ = total / 2 if self.metric == "cosine" else total
        self.labels_ = as_input_type(X, labels)
        self.cluster_centers_ = as_input_type(X, self._found())
        self.counts_ = as_input_type(X, self._running.counts)
        shards = Shards(self.sharded)
        weight = shards.total(len(source)) if weights is None else weights.sum(dtype=torch.float64)
        self.variance_ = self._spread(total, float(weight))
        # A centre without rows is usual where batches are drawn, unless there are too few rows that differ.
        chunks = (self._running.rows(source[part])[:] for part in self._parts(source, 1))
        if merged or shards.total(count_distinct(chunks, self.n_clusters)) < self.n_clusters:
            sizes = shards.sum(torch.bincount(labels, minlength=self.n_clusters))
            warn_if_fewer(int((sizes > 0).sum()), self.n_clusters)

    def _assigned(
        self, source: Source, weights: Float[Tensor, "n"] | None
    ) -> tuple[Int64[Tensor, "n"], float, Float[Tensor, "k"]]:
        """The nearest centre of each row, the sum of the squared distances, and the largest distance to each centre."""
        labels = torch.empty(len(source), dtype=torch.int64, device=source.device)
        total, reach = 0.0, self._running.centers.new_zeros(self.n_clusters)
        for part in self._parts(source, self.n_clusters):
            rows = self._running.rows(source[part])
            x = rows[:]
            labels[part] = nearest(rows, x, self._running.centers)[0]
            apart = to_points(x, self._running.centers.index_select(0, labels[part]))
            reach.scatter_reduce_(0, labels[part], apart.to(reach.dtype), "amax")
            squared = apart.double().square()
            total += float(squared.sum() if weights is None else squared @ weights[part].double())
        shards = Shards(self.sharded)
        total = float(shards.sum(torch.tensor(total, dtype=torch.float64)))
        return labels, total, shards.gather(reach[None]).amax(0)

    def _parts(self, source: Source, n_columns: int) -> Iterator[slice]:
        everything = source[:1].expand(len(source), -1)  # of which only the size is asked
        return Rows(everything, self.metric).parts(n_columns)

    def _found(self) -> Float[Tensor, "k d"]:
        return self._running.centers + self._running.shift
