"""The votes of many heads, and the classifier that goes on from them."""

from itertools import permutations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from shoal.clustering import nearest_neighbours
from shoal.clustering.temi import consensus
from shoal.clustering.temi.consensus import (
    _neighbours_mean,
    classifier,
    neighbour_information,
    self_trained,
    softly_agreed,
    votes,
)

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


def mistaken(labels, right, seed=1):
    """Labels, of which a share is drawn anew."""
    g = torch.Generator().manual_seed(seed)
    return labels.where(torch.rand(len(labels), generator=g) < right, torch.randint(2, (len(labels),), generator=g))


@pytest.mark.parametrize(("large", "right"), [(0.5, 0.6), (0.75, 0.8), (0.9, 0.8)])
def test_the_classifier_goes_on_to_groups_from_labels_that_are_often_right(large, right):
    z, labels = long_groups(large=large)
    start = mistaken(labels, right)
    found = self_trained(z, start, 2)
    assert (start == labels).float().mean() < 0.93
    assert (found.labels == labels).float().mean() > 0.98
    assert torch.equal(found.labels, (z @ found.weight.T + found.bias).argmax(1))
    torch.testing.assert_close(found.logits, z @ found.weight.T + found.bias, atol=1e-3, rtol=1e-3)


def test_with_neighbours_it_finds_the_gap_from_a_cut_across_the_groups():
    z, labels = long_groups(large=0.5)
    cut = (z @ torch.tensor([0.2, 1.0]) > 0).long()
    near = nearest_neighbours(z, 20, "euclidean")[0]
    assert (cut == labels).float().mean() < 0.95
    assert (self_trained(z, cut, 2, near=near).labels == labels).float().mean() > 0.99


def test_with_neighbours_clusters_become_about_equally_large():
    z = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    cut, near = (z[:, 0] > 0.25).long(), nearest_neighbours(z, 20, "euclidean")[0]
    assert 0.4 < self_trained(z, cut, 2, steps=30, near=near).labels.float().mean() < 0.6
    assert 0.15 < self_trained(z, cut, 2, steps=30).labels.float().mean() < 0.35


def test_softly_a_wrong_start_is_left_behind():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (1200,), generator=g)
    z = 3 * torch.randn(6, 40, generator=g)[labels] / 40**0.5 + torch.randn(1200, 40, generator=g) / 2
    z = z - z.mean(0)
    near = nearest_neighbours(z, 20, "euclidean")[0]
    wrong = labels.where((labels > 1) | (torch.rand(1200, generator=g) < 0.55), 1 - labels)
    voted = torch.nn.functional.one_hot(wrong, 6).float()
    found = softly_agreed(z, voted, near)
    torch.testing.assert_close(found.sum(1), torch.ones(1200))
    assert adjusted_rand_score(labels, wrong) < 0.8
    assert adjusted_rand_score(labels, found.argmax(1)) > 0.95
    weight, bias = classifier(z, voted, near)
    assert adjusted_rand_score(labels, (z @ weight.T + bias).argmax(1)) > 0.95


def test_of_two_ends_the_one_goes_on_whose_clusters_tell_more_of_neighbours(monkeypatch):
    z, labels = long_groups(large=0.5)
    near = nearest_neighbours(z, 20, "euclidean")[0]
    across = (z[:, 0] > 0).long()
    assert neighbour_information(labels, near, 2) > neighbour_information(across, near, 2)
    right, other = (torch.nn.functional.one_hot(each, 2).float() for each in (labels, across))
    for votes_are, soft in ((right, other), (other, right)):
        monkeypatch.setattr(consensus, "softly_agreed", lambda *_, soft=soft: soft)
        weight, bias = classifier(z, votes_are, near)
        assert ((z @ weight.T + bias).argmax(1) == labels).float().mean() > 0.99


def test_information_about_neighbours_is_that_of_plain_counts():
    g = torch.Generator().manual_seed(0)
    labels, near = torch.randint(3, (50,), generator=g), torch.randint(50, (50, 4), generator=g)
    one, other = labels.repeat_interleave(4), labels[near].flatten()
    assert neighbour_information(labels, near, 4) == pytest.approx(mutual_info_score(one, other), rel=1e-9)


def test_neighbours_are_averaged_row_by_row():
    g = torch.Generator().manual_seed(0)
    values, near = torch.rand(3000, 100, generator=g), torch.randint(3000, (3000, 20), generator=g)
    torch.testing.assert_close(_neighbours_mean(values, near), values[near].mean(1))


def test_probabilities_are_as_sure_as_neighbours_agree():
    g = torch.Generator().manual_seed(2)
    labels = torch.arange(900) % 2
    z = torch.randn(900, 40, generator=g)
    z[:, 0] += 5.0 * labels - 2.5
    near = nearest_neighbours(z, 40, "euclidean")[0]
    voted = 0.4 * torch.nn.functional.one_hot(labels, 2) + 0.3
    weight, bias = classifier(z - z.mean(0), voted, near)
    found = ((z - z.mean(0)) @ weight.T + bias).softmax(1)
    own = found.argmax(1)
    agreeing = (own[near[:, :20]] == own[:, None]).float().mean()
    assert 0.8 < agreeing < 0.98
    torch.testing.assert_close(found.amax(1).mean(), agreeing, atol=2e-3, rtol=0)


def test_a_cluster_without_votes_and_a_single_one():
    z, labels = long_groups()
    near = nearest_neighbours(z, 20, "euclidean")[0]
    found = self_trained(z, labels, 3)
    assert (found.labels == labels).float().mean() > 0.99
    weight, bias = classifier(z, torch.nn.functional.one_hot(labels, 3).float(), near)
    assert (z @ weight.T + bias).softmax(1).isfinite().all()
    weight, bias = classifier(z, torch.ones(len(z), 1), near)
    assert torch.equal((z @ weight.T + bias).softmax(1), torch.ones(len(z), 1))
