"""The linear probe beside scikit-learn's logistic regression."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from shoal.evaluation.linear import LARS_PROBE, SGD_PROBE, linear_predict


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n, d, n_classes, overlap, seed=0):
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, d, generator=seeded(99))
    return centres[labels] + overlap * torch.randn(n, d, generator=seeded(seed)), labels


def accuracy(ranked, labels):
    return (ranked[:, 0] == labels).float().mean().item()


def test_sgd_reads_as_much_off_the_digits_as_logistic_regression():
    bunch = load_digits()
    rows, labels = torch.from_numpy(bunch.data).float(), torch.from_numpy(bunch.target)
    order = torch.randperm(len(rows), generator=seeded())
    train, test = order[:1400], order[1400:]
    peer = LogisticRegression(max_iter=2000).fit(rows[train].numpy() / 16, bunch.target[train])
    expected = peer.score(rows[test].numpy() / 16, bunch.target[test])
    found = accuracy(linear_predict(rows[test], rows[train], labels[train], SGD_PROBE, seeded()), labels[test])
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_lars_reads_as_much_off_many_rows_as_logistic_regression():
    rows, labels = blobs(22_000, 16, 5, overlap=3.0)
    train, test = slice(0, 20_000), slice(20_000, None)
    expected = LogisticRegression().fit(rows[train].numpy(), labels[train].numpy()).score(rows[test], labels[test])
    found = accuracy(linear_predict(rows[test], rows[train], labels[train], LARS_PROBE, seeded()), labels[test])
    assert 0.5 < expected < 0.95
    assert found == pytest.approx(expected, abs=0.015)


def test_scale_and_offset_of_a_dimension_do_not_matter():
    rows, labels = blobs(400, 8, 4, overlap=2.0)
    stretched = rows * torch.logspace(-4, 4, 8) + torch.linspace(-1, 1, 8)
    one, two = (linear_predict(x, x, labels, SGD_PROBE, seeded()) for x in (rows, stretched))
    assert accuracy(one, two[:, 0]) > 0.99


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_dimensions_without_content_are_harmless(constant):
    rows, labels = blobs(400, 8, 4, overlap=2.0)
    padded = torch.cat((rows, torch.full((400, 8), constant)), 1)
    one, two = (linear_predict(x, x, labels, SGD_PROBE, seeded()) for x in (rows, padded))
    assert accuracy(one, labels) == pytest.approx(accuracy(two, labels), abs=0.03)
    nothing = linear_predict(padded[:, 8:], padded[:, 8:], labels, SGD_PROBE, seeded())
    assert accuracy(nothing, labels) == 0.25


def test_all_classes_are_ranked_and_the_seed_decides():
    rows, labels = blobs(300, 8, 7, overlap=3.0)
    first, again, other = (linear_predict(rows, rows, labels, SGD_PROBE, seeded(s)) for s in (0, 0, 1))
    assert first.sort(1).values.tolist() == [list(range(7))] * 300
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    hits = (first == labels[:, None]).float().mean(0).cumsum(0)
    assert hits[0] < hits[4] <= 1


def test_the_rates_are_the_published_ones():
    assert [SGD_PROBE.schedule(e) for e in (0, 59, 60, 79, 80, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [LARS_PROBE.schedule(e) for e in (0, 45, 89)] == pytest.approx([1, 0.5, 0.0003], abs=1e-4)
    classifier = torch.nn.Linear(3, 2)
    assert [group["lr"] for group in SGD_PROBE.optimizer(classifier).param_groups] == [30.0]
    assert [group["lr"] for group in LARS_PROBE.optimizer(classifier).param_groups] == [1.6, 1.6]
