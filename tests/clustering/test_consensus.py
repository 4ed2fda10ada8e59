"""The votes of many heads, and the classifier that goes on from them."""

from itertools import permutations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from shoal.clustering.temi.consensus import self_trained, votes

H, K, N = 5, 4, 600


def in_chunks(shares, size=250):
    """The form in which ``votes`` reads probabilities (h, k, n)."""

    def read():
        for start in range(0, shares.shape[2], size):
            part = slice(start, start + size)
            yield part, shares[:, :, part]

    return read


def heads(labels, wrong=0.0, seed=0, k=K, h=H):
    """Heads that each call the clusters by other numbers, and put a share of the rows anywhere."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(h):
        own = torch.randperm(k, generator=g)[labels]
        stray = torch.rand(len(labels), generator=g) < wrong
        own = own.where(~stray, torch.randint(k, (len(labels),), generator=g))
        logits = 3 * torch.nn.functional.one_hot(own, k) + torch.rand(len(labels), k, generator=g)
        found.append(logits.softmax(1).T)
    return torch.stack(found)


def test_votes_are_those_of_the_best_numbering():
    shares = heads(torch.arange(N) % K, wrong=0.3)
    numbers = list(permutations(range(K)))
    by_hand = shares[2].clone()
    for _ in range(3):
        best = [max(numbers, key=lambda p, each=each: float((by_hand * each[list(p)]).sum())) for each in shares]
        by_hand = torch.stack([each[list(p)] for each, p in zip(shares, best, strict=True)]).mean(0)
    torch.testing.assert_close(votes(in_chunks(shares), N, 2), by_hand.T)
    torch.testing.assert_close(votes(in_chunks(shares, N), N, 2), by_hand.T)


def test_together_they_are_right_where_each_is_often_wrong():
    labels = torch.arange(N) % K
    shares = heads(labels, wrong=0.4, h=16)
    assert max(adjusted_rand_score(labels, each.argmax(0)) for each in shares) < 0.6
    assert adjusted_rand_score(labels, votes(in_chunks(shares), N, 0).argmax(1)) > 0.98


def long_groups(n=900, large=0.75, seed=0):
    """Two groups long in the one direction and thin in the other, of different size, about their common mean."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=g) > large).long()
    z = torch.randn(n, 2, generator=g) * torch.tensor([4.0, 0.5]) + torch.stack([torch.zeros(n), 3.0 * labels], 1)
    return z - z.mean(0), labels


def test_the_classifier_goes_on_to_the_groups_from_votes_for_some_of_them():
    z, labels = long_groups(large=0.5)
    g = torch.Generator().manual_seed(1)
    guessed = labels.where(torch.rand(len(labels), generator=g) < 0.6, torch.randint(2, (len(labels),), generator=g))
    weight, bias = self_trained(z, 0.4 * torch.nn.functional.one_hot(guessed, 2) + 0.3)
    found = (z @ weight.T + bias).softmax(1)
    assert (guessed == labels).float().mean() < 0.83
    assert (found.argmax(1) == labels).float().mean() > 0.99
    # Surer than the votes it is not, however far the groups are apart.
    torch.testing.assert_close(found.amax(1).mean(), torch.tensor(0.7), atol=1e-3, rtol=0)


@pytest.mark.parametrize("large", [0.75, 0.9])
def test_no_cluster_is_swallowed(large):
    z, labels = long_groups(large=large)
    g = torch.Generator().manual_seed(1)
    guessed = labels.where(torch.rand(len(labels), generator=g) < 0.8, torch.randint(2, (len(labels),), generator=g))
    weight, bias = self_trained(z, 0.8 * torch.nn.functional.one_hot(guessed, 2) + 0.1)
    found = (z @ weight.T + bias).argmax(1)
    assert (found == labels).float().mean() > 0.98


def test_a_cluster_without_votes_stays_empty_and_one_cluster_is_one():
    z, labels = long_groups()
    voted = torch.nn.functional.one_hot(labels, 3).float()
    weight, bias = self_trained(z, voted)
    found = (z @ weight.T + bias).softmax(1)
    assert found.isfinite().all()
    assert found[:, 2].max() < 1e-6
    weight, bias = self_trained(z, torch.ones(len(z), 1))
    assert torch.equal((z @ weight.T + bias).softmax(1), torch.ones(len(z), 1))
