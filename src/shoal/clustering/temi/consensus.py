"""One clustering from many heads: their votes, and a linear classifier that goes on from these by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from shoal.clustering.linear import class_sums, discriminant
from shoal.clustering.temperature import temperature_of

ROUNDS = 3
"""Alignments of the heads: to one of them, then to the votes."""

NEAR = 20
"""Neighbours that rows are to agree with."""

AGREEMENTS = 30
"""Most rounds of the classifier and the neighbours."""

BALANCE = 0.9
"""Share of the correction towards equal clusters: all of it would cut large groups in two."""

STEPS = 10
"""Most fits of the classifier. With five hundred rows of a class the changes have nearly stopped by then."""

SETTLED = 0.001
"""Share of the rows that change cluster from which on the classifier is fitted no more."""

OFFSETS = 5
"""Corrections of the sizes of clusters after each fit."""

Shares = Callable[[], Iterator[tuple[slice, Float32[Tensor, "h k b"]]]]
"""Probabilities of the clusters of each head, for a slice of the rows at a time."""


def votes(shares: Shares, n: int, first: int) -> Float32[Tensor, "n k"]:
    """Mean of the heads' probabilities, after the clusters of each head got the numbers of those they share rows with.

    Each head's clusters are matched to those of the consensus so that the expected number of rows in common is largest
    (Hungarian method; Strehl and Ghosh 2002 call such groups of clusters meta-clusters, and vote by them as well).

    Args:
        shares: of all rows.
        n: number of rows.
        first: the head whose numbers the others are matched to at first.
    """
    numbers: Int64[Tensor, "h k"] | None = None
    for _ in range(ROUNDS):
        common: Tensor | float = 0.0
        for _, each in shares():
            reference = each[first] if numbers is None else _aligned(each, numbers).mean(0)
            common = common + torch.einsum("kb,hjb->hkj", reference.double(), each.double())
        matched = [torch.as_tensor(linear_sum_assignment(-own.cpu().numpy())[1]) for own in torch.as_tensor(common)]
        found = torch.stack(matched)
        if numbers is not None and torch.equal(found, numbers):
            break
        numbers = found
    assert numbers is not None
    voted: Tensor | None = None
    for part, each in shares():
        if voted is None:
            voted = each.new_empty(n, each.shape[1])
        voted[part] = _aligned(each, numbers).mean(0).T
    assert voted is not None
    return voted


def _aligned(shares: Float32[Tensor, "h k b"], numbers: Int64[Tensor, "h k"]) -> Float32[Tensor, "h k b"]:
    return shares.gather(1, numbers.to(shares.device)[:, :, None].expand_as(shares))


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear classifier, and what it says of the rows that it was fitted to."""

    weight: Float32[Tensor, "k c"]
    bias: Float32[Tensor, "k"]
    logits: Float32[Tensor, "n k"]
    labels: Int64[Tensor, "n"]


def self_trained(
    z: Float32[Tensor, "n c"],
    start: Int64[Tensor, "n"],
    k: int,
    *,
    steps: int = STEPS,
    near: Int64[Tensor, "n m"] | None = None,
) -> Linear:
    """A linear classifier that is fitted to the labels that it gives, again and again.

    The classes are Gaussians of one covariance, as in ``LinearHead``, fitted by classification EM (Celeux and Govaert
    1992). With neighbours, a row's label is what the classifier says of these, on average, and biases make clusters
    about equally large: the aims of TEMI, where each step has a closed form. Alone, biases keep the sizes that clusters
    have at the start, so that large ones do not swallow small ones.

    Args:
        z: rows, about their mean.
        start: their clusters.
        k: number of clusters.
        steps: most fits.
        near: neighbours of each row.
    """
    scatter, labels, every = z.T @ z, start, torch.ones(len(z), device=z.device)
    sizes = (
        torch.bincount(start, minlength=k).double() / len(z) if near is None else every.new_full((k,), 1 / k).double()
    )
    share = 1.0 if near is None else BALANCE
    offset = torch.zeros_like(sizes)
    for _ in range(steps):
        weight, bias = discriminant(scatter, *class_sums(z, labels, every, k))
        logits = torch.addmm(bias, z, weight.T)
        if near is not None:
            mean = _neighbours_mean(logits.softmax(1), near)
            logits = mean.clamp_(min=torch.finfo(torch.float32).tiny).log_()
        offset = _offset(logits, sizes, offset, share)
        logits += offset.float()
        before, labels = labels, logits.argmax(1)
        if int((labels != before).sum()) <= SETTLED * len(z):
            break
    return Linear(weight, bias + offset.float(), logits, labels)


def softly_agreed(
    z: Float32[Tensor, "n c"], voted: Float32[Tensor, "n k"], near: Int64[Tensor, "n m"]
) -> Float32[Tensor, "n k"]:
    """Probabilities after rounds as in ``self_trained`` with neighbours, but fitted to probabilities, not to labels.

    It leaves a wrong start behind, which labels hold on to; where clusters lie in few dimensions, though, it may lose
    them.

    Args:
        z: rows, about their mean.
        voted: probability of each cluster.
        near: neighbours of each row.
    """
    scatter, probabilities = z.T @ z, voted
    equal = voted.new_full((voted.shape[1],), 1 / voted.shape[1]).double()
    own, averaged = torch.zeros_like(equal), torch.zeros_like(equal)
    for _ in range(AGREEMENTS):
        weight, bias = discriminant(scatter, probabilities.T @ z, probabilities.sum(0))
        logits = torch.addmm(bias, z, weight.T)
        own = _offset(logits, equal, own, BALANCE)
        mean = _neighbours_mean((logits + own.float()).softmax(1), near)
        logits = mean.clamp_(min=torch.finfo(torch.float32).tiny).log_()
        averaged = _offset(logits, equal, averaged, BALANCE)
        probabilities = (logits + averaged.float()).softmax(1)
    return probabilities


def neighbour_information(labels: Int64[Tensor, "n"], near: Int64[Tensor, "n m"], k: int) -> float:
    """Mutual information, in nats, of the clusters of a row and of one of its neighbours."""
    pairs = (labels[:, None] * k + labels[near]).flatten()
    joint = torch.bincount(pairs, minlength=k * k).double().view(k, k) / pairs.numel()
    apart = joint.sum(1, keepdim=True) * joint.sum(0)
    some = joint > 0
    return float((joint[some] * (joint[some] / apart[some]).log()).sum())


def classifier(
    z: Float32[Tensor, "n c"], voted: Float32[Tensor, "n k"], neighbours: Int64[Tensor, "n m"]
) -> tuple[Float32[Tensor, "k c"], Float32[Tensor, "k"]]:
    """Weights and biases of the linear classifier that votes lead to.

    Self-training with neighbours runs from the votes and from their soft refinement; the clusters with more mutual
    information between neighbours are kept. Then it is trained alone. At the end logits are divided by the
    temperature at which the mean probability of a row's cluster is the share of neighbours in the same one: neighbours
    differ about as often as clusters are wrong, while classifiers are surer than they are right.

    Args:
        z: rows, about their mean.
        voted: probability of each cluster.
        neighbours: of each row, nearest first.
    """
    k, near = voted.shape[1], neighbours[:, :NEAR]
    starts = (voted, softly_agreed(z, voted, near))
    agreed = [self_trained(z, start.argmax(1), k, steps=AGREEMENTS, near=near).labels for start in starts]
    found = self_trained(z, max(agreed, key=lambda labels: neighbour_information(labels, near, k)), k)
    same = (found.labels[near] == found.labels[:, None]).float().mean()
    surest = found.logits.argmax(1, keepdim=True)
    temperature = max(1.0, temperature_of(found.logits, surest, float(same)))  # nothing gets surer
    return found.weight / temperature, found.bias / temperature


def _neighbours_mean(values: Float32[Tensor, "n k"], near: Int64[Tensor, "n m"]) -> Float32[Tensor, "n k"]:
    found = torch.empty_like(values)
    size = max(1, 2**22 // (near.shape[1] * values.shape[1]))
    for start in range(0, len(near), size):
        found[start : start + size] = values[near[start : start + size]].mean(1)
    return found


def _offset(
    logits: Float32[Tensor, "n k"], sizes: Float64[Tensor, "k"], offset: Float64[Tensor, "k"], share: float = 1.0
) -> Float64[Tensor, "k"]:
    """What is added to logits so that the mean probabilities are the sizes, by steps from another such vector.

    With a ``share`` below 1 it is less than would be needed.
    """
    tiny = torch.finfo(torch.float32).tiny
    for _ in range(OFFSETS):
        found = (logits + offset.float()).softmax(1).mean(0, dtype=torch.float64)
        offset = share * (offset + (sizes.clamp(min=tiny) / found.clamp(min=tiny)).log())
    return offset
