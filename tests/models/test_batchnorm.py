import copy

import pytest
import torch
from torch import nn

from shoal.models import split_batch_norm, sync_batch_norm


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5), nn.BatchNorm1d(5))
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[4].bias)
    return net


def test_each_part_is_normalised_as_if_alone():
    plain, images = network(), torch.randn(12, 3, 8, 8)
    split = split_batch_norm(copy.deepcopy(plain), 3)
    alone = [copy.deepcopy(plain) for _ in range(3)]
    parts = [net(part) for net, part in zip(alone, images.chunk(3), strict=True)]
    torch.testing.assert_close(split(images), torch.cat(parts))
    for place in (1, 4):
        means = torch.stack([net[place].running_mean for net in alone]).mean(0)
        torch.testing.assert_close(split[place].running_mean, means)


@pytest.mark.parametrize("renew", [lambda net: split_batch_norm(net, 3), sync_batch_norm])
def test_names_parameters_and_what_is_seen_in_use_stay(renew):
    plain, images = network(), torch.randn(12, 3, 8, 8)
    plain(images)
    renewed = renew(copy.deepcopy(plain))
    assert renewed.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(renewed.eval()(images), plain.eval()(images))
    assert [p.requires_grad for p in renewed.parameters()] == [p.requires_grad for p in plain.parameters()]


def test_a_frozen_network_stays_frozen():
    assert not any(p.requires_grad for p in split_batch_norm(network().requires_grad_(False), 2).parameters())


def test_one_part_is_the_network_as_it_is():
    assert type(split_batch_norm(network(), 1)[1]) is nn.BatchNorm2d


def test_alone_statistics_of_the_world_are_plain_ones():
    plain, images = network(), torch.randn(12, 3, 8, 8)
    synced = sync_batch_norm(copy.deepcopy(plain))
    assert torch.equal(synced(images), plain(images))
