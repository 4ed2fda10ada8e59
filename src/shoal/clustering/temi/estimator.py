"""TEMI: deep clustering of frozen features by small heads that agree on pairs of neighbours."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from shoal.clustering.inputs import ArrayOrTensor, SharesEstimator, as_input_type, warn_if_fewer
from shoal.clustering.linear import LinearPosterior
from shoal.clustering.neighbours import nearest_neighbours
from shoal.clustering.parameters import (
    Array,
    check_counts,
    check_n_clusters,
    check_not_negative,
    generator_from,
    hinting,
    precision_of,
)
from shoal.clustering.rows import Metric, Rows, count_distinct, invalid_features_error, subsample
from shoal.clustering.temi.consensus import classifier, votes
from shoal.clustering.temi.heads import (
    BETA,
    HIDDEN,
    TEMPERATURE,
    Head,
    Heads,
    log_probabilities,
    principal_components,
    temi_loss,
    update_marginal,
)
from shoal.errors import UserError

MAX_ROWS = 100_000
"""Rows that train the heads, drawn if there are more. Each is compared with all others."""

COMPONENTS = 256
USUAL_WIDTH = 512
"""Fewer columns are scaled up, so that the first layer's output is as large as with this many."""

RATE = 1.6e-3
"""The published 1e-4 per 256 pairs gives 4e-4 for 1024. A rate that falls may begin higher and needs fewer updates."""

WEIGHT_DECAY = 1e-4
EPOCHS = 8
MIN_STEPS = 1250
"""Heads need not be trained to the end, for the classifier goes on from their votes (``benchmarks/LOG.md``)."""

STEPS_PER_CLUSTER = 16
"""With many clusters there are more updates, for a batch then holds few rows of each."""

WARM_UP = 0.1
"""Share of the updates in which the rate rises; then it falls along a cosine."""

LARGEST_BATCH = 1024
SMALLEST_BATCH = 64
UPDATES = 128
"""Smallest number of updates in an epoch; few rows reach it by smaller batches."""

MEMORY = 1 / 8
"""Share of the updates over which the teachers average."""

AfterEpoch = Callable[[int, int], None]


def _ignore(_done: int, _total: int) -> None:
    pass


class TEMI(SharesEstimator):
    """Deep clustering of frozen features by pairs of neighbours, with scikit-learn's interface.

    Adaloglou, Michels, Kalisch and Kollmann, "Exploring the Limits of Deep Image Clustering using Pretrained Models"
    (BMVC 2023, arXiv 2303.17896). Small heads learn clusters of about equal size in which rows agree with their
    neighbours (``temi_loss``). A moving average of each head, its teacher, says where the other row of a pair belongs;
    pairs that all teachers together find likely count most. Then the teachers vote, and from their votes a linear
    classifier goes on by itself, first together with the neighbours of each row (``consensus.classifier``); it is what
    is kept. The published method takes the head of lowest loss.

    Probabilities are those of the classifier, as sure on average as neighbours are in the same cluster.

    Rows are scaled to unit length under the cosine; columns are standardised, and their first 256 principal components
    train the heads. Of more than 100 000 rows a sample of that size is drawn for training. Where the hardware
    multiplies bfloat16 the heads do. Some clusters may stay empty: ``labels_`` need not contain all k numbers.

    Given a tensor, it works on the tensor's device and returns tensors there; given anything else that scikit-learn
    accepts as an array, it returns numpy arrays.

    Args:
        n_clusters: k.
        metric: decides which rows are neighbours; "cosine", as published, also scales rows to unit length.
        n_neighbors: neighbours of each row, one of which is drawn to form a pair; at most n / 2k, so that a pair fits
            into one cluster.
        n_heads: heads that are trained side by side.
        beta: exponent of the loss, usually in (0.5, 1]; smaller values keep clusters of more equal size.
        epochs: passes over the rows; None: 8, or more for few rows, until there are enough updates.
        batch_size: pairs in an update; None: 1024, or less for few rows.
        random_state: an int makes the result reproducible; None draws new weights and pairs each time.

    Attributes:
        labels_: int64 (n,), the most probable cluster of each row.
        head_: the linear classifier, or of a clustering that an earlier version saved the chosen head.
        losses_: float (n_heads,), mean loss of each head in the last epoch.
        n_features_in_: d.
    """

    @hinting
    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "cosine",
        n_neighbors: int = 50,
        n_heads: int = 16,
        beta: float = BETA,
        epochs: int | None = None,
        batch_size: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.n_heads = n_heads
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state

    def fit(self, X: ArrayOrTensor, y: object = None, *, after_epoch: AfterEpoch = _ignore) -> TEMI:
        """Find the clusters of rows (n, d); ``y`` is ignored.

        ``after_epoch`` is called with the number of epochs done and of all epochs; it may raise to stop.

        Raises:
            UserError: fewer than two rows or fewer than clusters, NaN, infinity, a zero row under the cosine, rows
                whose squared distances overflow; bad parameters.
        """
        features = self._features(X, reset=True)
        generator = generator_from(self.random_state)
        drawn = subsample(len(features), MAX_ROWS, generator).to(features.device)
        how = self._training(len(drawn))
        rows = Rows(features if len(drawn) == len(features) else features[drawn], self.metric)
        neighbours, _ = nearest_neighbours(rows.features.detach(), how.n_neighbors, self.metric)
        components = principal_components(rows, COMPONENTS, generator)
        larger = max(1.0, USUAL_WIDTH / features.shape[1]) ** 0.5
        components = replace(components, scale=components.scale / larger)
        trainer = _Trainer(components.of(rows), self.n_clusters, how, generator)
        losses = trainer.fit(neighbours, after_epoch)
        voted = votes(trainer.shares, len(rows), int(losses.argmin()))
        weight, bias = classifier(trainer.z, voted, neighbours)
        weight = (weight @ components.axes.T / components.scale).contiguous()
        self.head_: LinearPosterior | Head = LinearPosterior(self.metric, components.mean, weight, bias)
        self.losses_: Array | Tensor = as_input_type(X, losses)
        self.labels_: Array | Tensor = self.predict(X)
        # An empty cluster is usual, unless there are too few rows that differ.
        if count_distinct((x for _, x in rows.chunks(1)), self.n_clusters) < self.n_clusters:
            warn_if_fewer(len(torch.unique(torch.as_tensor(self.labels_))), self.n_clusters)
        return self

    def _shares(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        head, rows = self.head_.to(features.device), Rows(features, self.metric)
        shares = torch.empty(len(rows), head.n_clusters, dtype=precision_of(features), device=features.device)
        for part in rows.parts(HIDDEN):
            shares[part] = head(rows.features[part])
        if not torch.isfinite(shares).all():
            raise invalid_features_error(features)
        return shares

    def as_module(self) -> LinearPosterior | Head:
        """The probabilities as a network."""
        return self.head_

    def _training(self, n: int) -> Training:
        """The settings for n rows, checked."""
        check_n_clusters(n, n_clusters=self.n_clusters)
        optional = {name: getattr(self, name) for name in ("epochs", "batch_size") if getattr(self, name) is not None}
        check_counts(n_neighbors=self.n_neighbors, n_heads=self.n_heads, **optional)
        if n < 2:
            raise UserError(f"a single row has no neighbours (n_samples={n}): give at least two rows.")
        check_not_negative(beta=self.beta)
        if not 0 < self.beta < math.inf:
            raise UserError(f"beta={self.beta} must be larger than 0: the published value is {BETA}.")
        batch_size = min(n, self.batch_size or default_batch(n))
        steps = max(MIN_STEPS, STEPS_PER_CLUSTER * self.n_clusters)
        return Training(
            n_heads=self.n_heads,
            n_neighbors=min(self.n_neighbors, max(1, n // (2 * self.n_clusters)), n - 1),
            beta=self.beta,
            epochs=self.epochs or max(EPOCHS, -(-steps // (n // batch_size))),
            batch_size=batch_size,
        )


def rate_factor(progress: float) -> float:
    """By what the rate is multiplied once a share of the updates is done."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))


def default_batch(n: int) -> int:
    """Pairs in an update: the largest power of two with 128 updates an epoch, between 64 and the published 1024."""
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, 1 << max(0, (n // UPDATES).bit_length() - 1)))


@dataclass(frozen=True)
class Training:
    """How heads are trained; see ``TEMI``."""

    n_heads: int
    n_neighbors: int
    beta: float
    epochs: int
    batch_size: int


class _Trainer:
    """Students, their teachers (moving averages) and how often the teachers use each cluster."""

    def __init__(self, z: Float32[Tensor, "n c"], n_clusters: int, how: Training, generator: torch.Generator) -> None:
        self.z, self.how, self.generator = z, how, generator
        self.student = Heads(how.n_heads, z.shape[1], n_clusters, generator).to(z.device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.marginal = torch.full((how.n_heads, n_clusters), 1 / n_clusters, device=z.device)
        biases = [self.student.first_bias, self.student.second_bias]
        weights = [p for p in self.student.parameters() if all(p is not bias for bias in biases)]
        groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
        self.pace = min(1.0, 1 / (MEMORY * how.epochs * (len(z) // how.batch_size)))
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def fit(self, neighbours: Int64[Tensor, "n m"], after_epoch: AfterEpoch = _ignore) -> Float[Tensor, "h"]:
        """Train to the end; returns the mean loss of each head in the last epoch."""
        n, size = len(self.z), self.how.batch_size
        per_epoch = n // size
        losses = self.marginal.new_zeros(self.how.n_heads)
        for epoch in range(self.how.epochs):
            order = torch.randperm(n, generator=self.generator)
            near = torch.randint(neighbours.shape[1], (n,), generator=self.generator)
            losses.zero_()
            for step in range(per_epoch):
                rows = order[step * size : (step + 1) * size].to(self.z.device)
                pairs = torch.cat([rows, neighbours[rows, near[rows.cpu()].to(rows.device)]])
                progress = (epoch * per_epoch + step + 0.5) / (self.how.epochs * per_epoch)
                losses += self._step(self.z[pairs], progress, frozen=epoch == 0)
            after_epoch(epoch + 1, self.how.epochs)
        return losses / per_epoch

    @torch.no_grad()
    def shares(self) -> Iterator[tuple[slice, Float32[Tensor, "h k b"]]]:
        """Probabilities by each teacher, for some rows at a time."""
        for start in range(0, len(self.z), LARGEST_BATCH):
            part = slice(start, start + LARGEST_BATCH)
            yield part, (self.teacher(self.z[part]) / TEMPERATURE).softmax(1)

    def _step(self, z: Float[Tensor, "b2 c"], progress: float, *, frozen: bool) -> Float[Tensor, "h"]:
        """One update, from rows and then a neighbour of each."""
        with torch.no_grad():
            teacher = log_probabilities(self.teacher(z))
            update_marginal(self.marginal, teacher)
        losses = temi_loss(log_probabilities(self.student(z)), teacher, self.marginal, beta=self.how.beta)
        self.optimiser.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        if frozen:
            self.student.last.grad = self.student.gain.grad = None
        for group in self.optimiser.param_groups:
            group["lr"] = RATE * rate_factor(progress)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), self.pace)
        return losses.detach()
