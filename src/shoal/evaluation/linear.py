"""The linear probe: how well a linear classifier reads the classes off frozen features."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from shoal.clustering.contingency import Labels
from shoal.clustering.inputs import ArrayOrTensor, features_from
from shoal.clustering.parameters import precision_of
from shoal.evaluation.knn import as_classes, check_width, labelled


@dataclass(frozen=True)
class ProbeSetting:
    """How a probe is trained: published settings, of which nothing is tuned."""

    epochs: int
    batch_size: int
    optimizer: Callable[[nn.Linear], torch.optim.Optimizer]
    """Of the classifier, at the first epoch's rate."""
    schedule: Callable[[int], float]
    """What the rate is multiplied with in an epoch, counted from 0."""


def _sgd(classifier: nn.Linear) -> torch.optim.Optimizer:
    return torch.optim.SGD(classifier.parameters(), lr=30.0, momentum=0.9)


def _lars(classifier: nn.Linear) -> torch.optim.Optimizer:
    from timm.optim.lars import Lars  # 1 s to import

    groups = [{"params": [classifier.weight], "always_adapt": True}, {"params": [classifier.bias]}]
    return Lars(groups, lr=0.1 * 4096 / 256, momentum=0.9)


def _in_steps(epoch: int) -> float:
    return 0.1 ** sum(epoch >= milestone for milestone in (60, 80))


def _cosine(epoch: int) -> float:
    return (1 + math.cos(math.pi * epoch / 90)) / 2


SGD_PROBE = ProbeSetting(100, 256, _sgd, _in_steps)
"""Rate 30, divided by 10 at epochs 60 and 80 of 100 (MoCo, arXiv 1911.05722, section 4.1); no weight decay."""

LARS_PROBE = ProbeSetting(90, 4096, _lars, _cosine)
"""Rate 0.1 · batch / 256, a cosine over 90 epochs (SimSiam, arXiv 2011.10566, appendix A); no weight decay."""

LARS_LEAST_ROWS = 20_000
"""Rows to train on below which ``LARS_PROBE`` says more of itself than of the features. Its steps are shares of the
weights, which n rows let grow by a factor of about exp(90 · n/256 · 0.1 · 0.001 · 10 / 2): 33 from 20 000, but 1.3 from
1 500, and they are then still what they were drawn as."""


def linear_predict(
    queries: ArrayOrTensor,
    features: ArrayOrTensor,
    labels: Labels,
    setting: ProbeSetting,
    generator: torch.Generator,
) -> ArrayOrTensor:
    """Rank the classes of each query by a linear classifier that is trained on frozen features.

    Every dimension is brought to mean 0 and deviation 1/√d over ``features``, so that rows are about one long as the
    published rates expect, whatever the backbone's scale. Nothing is augmented: each feature is computed once.

    Args:
        queries: rows (q, d) to classify.
        features: rows (n, d) to train on.
        labels: their classes (n,), in [0, c) with c the largest of them plus one, or names; rows with a negative one
            are left out.
        setting: ``SGD_PROBE`` or ``LARS_PROBE``.
        generator: on the CPU; draws the first weights and the order of each epoch.

    Returns:
        All c classes of each query (q, c), best first; column 0 is the prediction, the first five columns the top-5.
        For arrays an array, and for names an array of names.

    Raises:
        UserError: labels or widths that do not fit.
    """
    known, numbers, names = labelled(features, labels)
    asked = features_from(queries)
    check_width(asked, known)
    d = known.shape[1]
    known = known.to(precision_of(known))
    std, mean = torch.std_mean(known, dim=0, correction=0)
    # A dimension that is the same everywhere says nothing, and its rounding errors are not to be blown up.
    rounding = 8 * torch.finfo(known.dtype).eps
    scale = (std * math.sqrt(d)).reciprocal().where(std > rounding * mean.abs(), 0.0)
    rows = ((known - mean) * scale).float()
    classifier = nn.Linear(d, int(numbers.max()) + 1, device=known.device)
    with torch.no_grad():
        # N(0, 0.01²) for dimensions of deviation 1, as published, is this for 1/√d.
        weight = torch.randn(classifier.weight.shape, generator=generator) * 0.01 * math.sqrt(d)
        classifier.weight.copy_(weight)
        classifier.bias.zero_()
    _train(classifier, rows, numbers, setting, generator)
    with torch.no_grad():
        logits: Tensor = classifier(((asked.to(mean.dtype) - mean) * scale).float())
    return as_classes(queries, logits.argsort(stable=True, dim=1, descending=True), names)


def _train(
    classifier: nn.Linear,
    rows: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    setting: ProbeSetting,
    generator: torch.Generator,
) -> None:
    optimizer = setting.optimizer(classifier)
    first = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(setting.epochs):
        for group, lr in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = lr * setting.schedule(epoch)
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        for batch in torch.split(order, setting.batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(classifier(rows[batch]), labels[batch]))
            optimizer.step()
