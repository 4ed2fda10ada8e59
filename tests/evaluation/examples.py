"""Features with known classes."""

import torch

from shoal.clustering.kmeans import kmeans
from shoal.evaluation import Truth
from shoal.evaluation.result import Baseline


def blobs(n=240, n_classes=4, d=8, spread=0.5, seed=0):
    """Features (n, d) around a centre for each class, and labels that take turns."""
    labels = torch.arange(n) % n_classes
    centres = 2 * torch.randn(n_classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + spread * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), labels


def truth_of(labels, n_test=0):
    """All of it clustered; the last ``n_test`` rows are held out."""
    held_out = torch.arange(len(labels)) >= len(labels) - n_test
    classes = [f"class {c}" for c in range(int(labels.max()) + 1)]
    return Truth(labels, held_out, torch.ones(len(labels), dtype=torch.bool), classes)


def clustered(features, k=4):
    """The k-means that an evaluation is of."""
    return kmeans(features, k, generator=torch.Generator().manual_seed(0))


def plain(method="k-means", of="features", sampled=None, failed=None, labelled=True):
    """A baseline with figures of its own."""
    scores = {"acc": 0.5123, "purity": 0.6123, "nmi": 0.4123, "ari": 0.3123} if labelled and not failed else {}
    return Baseline(method, of, sampled, scores, None if failed else 0.7123, failed)
