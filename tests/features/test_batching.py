"""Batches grow while that pays and fits."""

import pytest
import torch

from shoal.features.batching import choose_batch_size, largest_that_pays


def rates(fits, full):
    """A device whose memory takes ``fits`` images and which ``full`` of them keep busy."""

    def rate(size):
        if size > fits:
            raise torch.OutOfMemoryError
        return min(size, full) * 100.0

    return rate


@pytest.mark.parametrize(
    ("fits", "full", "expected"),
    [(10_000, 64, 64), (10_000, 10_000, 1024), (300, 10_000, 128), (20, 10_000, 8), (3, 10_000, 4), (10_000, 1, 16)],
)
def test_a_gpus_batch(fits, full, expected):
    assert largest_that_pays(rates(fits, full), 16, 1024) == expected


def test_a_cpus_batch_follows_from_the_network(vit):
    assert choose_batch_size(vit) == choose_batch_size(vit) == 64
