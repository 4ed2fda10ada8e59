"""What the methods build on: gathering with gradient, drawing for the global batch, statistics of the global batch."""

import logging

import pytest
import torch
import torch.distributed as dist
from tests.ranks import on_two_ranks

from shoal import distributed, job
from shoal.losses import prototype_scattering
from shoal.methods import ProPosConfig
from shoal.methods.propos import ProPos
from shoal.models import Backbone
from shoal.types import Batch, Clustering


def method_and_batch() -> tuple[ProPos, Batch, Clustering]:
    """The same on every rank: a method, a batch of 12 images and their pseudo-labels."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 12), torch.nn.ReLU())
    backbone = Backbone(network, 12, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    method = ProPos(ProPosConfig(hidden=8, dim=6, noise=0.1), backbone, 4, generator)
    batch = Batch(torch.rand(12, 3, 4, 4), torch.rand(12, 3, 4, 4), torch.arange(12))
    return method, batch, Clustering(torch.arange(12) % 3, torch.zeros(4, 6), torch.zeros(12))


def gradients_of_scattering() -> tuple[float, list, list]:
    """One rank's averaged gradient of the scattering loss, and its noise."""
    method, batch, clustering = method_and_batch()
    mine = distributed.part(12)
    weight = torch.ones(48, 6, requires_grad=True)
    z = batch.view1[mine].flatten(1) @ (weight * torch.linspace(-1, 1, 6))
    labels = distributed.gather(clustering.labels[mine])
    loss = prototype_scattering(distributed.gather(z), distributed.gather(z.detach() + 1), labels, 4, 0.5)
    loss.backward()
    dist.all_reduce(weight.grad)
    noise = method._sample_neighbour(torch.zeros(6, 6))
    return loss.item(), (weight.grad / 2).tolist(), noise.tolist()


@pytest.fixture(scope="module")
def answers():
    return on_two_ranks(gradients_of_scattering)


@pytest.mark.slow
def test_the_loss_and_its_gradient_are_those_of_one_process(answers):
    _, batch, clustering = method_and_batch()
    weight = torch.ones(48, 6, requires_grad=True)
    z = batch.view1.flatten(1) @ (weight * torch.linspace(-1, 1, 6))
    loss = prototype_scattering(z, z.detach() + 1, clustering.labels, 4, 0.5)
    loss.backward()
    for rank in range(2):
        assert answers[rank][0] == pytest.approx(loss.item(), abs=1e-6)
        torch.testing.assert_close(torch.tensor(answers[rank][1]), weight.grad, rtol=1e-5, atol=1e-6)


def test_noise_is_drawn_for_the_world_batch_and_cut_by_rank(answers):
    method, *_ = method_and_batch()
    whole = method._sample_neighbour(torch.zeros(12, 6))
    ranks = torch.cat([torch.tensor(answers[0][2]), torch.tensor(answers[1][2])])
    torch.testing.assert_close(ranks, whole)


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert distributed.gather(rows) is rows
    assert distributed.sum_over_ranks(rows) is rows
    assert distributed.part(10) == slice(0, 10)


def warns_in_a_job() -> bool:
    with job.joined():
        return logging.getLogger("shoal").isEnabledFor(logging.WARNING)


def test_the_first_process_of_a_job_alone_warns():
    assert on_two_ranks(warns_in_a_job) == [True, False]
