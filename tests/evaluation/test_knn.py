"""Nearest neighbours: the published ranking, and a loop over pairs."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from tests.golden import golden

from shoal.errors import UserError
from shoal.evaluation import knn_leave_one_out, knn_predict


def blobs(n, n_classes=6, d=12, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + spread * torch.randn(n, d, generator=generator), labels


def naive(query, bank, labels, k, temperature, n_classes):
    """One query in plain Python, ties by number."""
    cosine = [float(torch.cosine_similarity(query, row, dim=0)) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda i: (-round(cosine[i], 6), i))[:k]
    votes = [sum(np.exp(cosine[i] / temperature) for i in nearest if labels[i] == c) for c in range(n_classes)]
    return sorted(range(n_classes), key=lambda c: (-votes[c], c))


def test_the_published_ranking():
    g = golden("knn")
    ranked = knn_predict(g["query"], g["bank"], g["bank_labels"], int(g["k"]), float(g["temperature"]))
    assert torch.equal(ranked, g["ranked"])
    assert (ranked[:, 0] == g["query_labels"]).float().mean() == g["top1"]


def test_a_loop_over_pairs():
    bank, labels = blobs(150, spread=2.0)
    queries, _ = blobs(30, seed=1, spread=2.0)
    ranked = knn_predict(3 * queries, bank / 7, labels, 9, 0.2)
    assert ranked.tolist() == [naive(query, bank, labels.tolist(), 9, 0.2, 6) for query in queries]


def test_scikit_learn_with_the_same_weights():
    bank, labels = blobs(400, spread=2.0)
    queries, _ = blobs(100, seed=1, spread=2.0)
    peer = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = peer.fit(bank.numpy(), labels.numpy()).predict(queries.numpy())
    assert knn_predict(queries, bank, labels, 20, 0.07)[:, 0].tolist() == expected.tolist()


def test_leaving_one_out_is_a_bank_without_the_row():
    rows, labels = blobs(80, spread=2.0)
    others = [torch.arange(80) != i for i in range(80)]
    expected = [knn_predict(rows[~own], rows[own], labels[own], 7, 0.1) for own in others]
    assert torch.equal(knn_leave_one_out(rows, labels, 7, 0.1), torch.cat(expected))


def test_chunks_do_not_change_anything(monkeypatch):
    rows, labels = blobs(100, spread=2.0)
    whole = knn_predict(rows, rows, labels, 5, 0.1), knn_leave_one_out(rows, labels, 5, 0.1)
    parts = [slice(start, min(start + 7, 100)) for start in range(0, 100, 7)]
    monkeypatch.setattr("shoal.evaluation.knn._chunks", lambda *_: iter(parts))
    assert torch.equal(knn_predict(rows, rows, labels, 5, 0.1), whole[0])
    assert torch.equal(knn_leave_one_out(rows, labels, 5, 0.1), whole[1])


def test_ties_go_to_the_earlier_neighbour_and_the_lower_class():
    bank = torch.ones(1000, 3)
    labels = torch.tensor([4, 2, 2, 3, 3] + [1] * 995)
    assert knn_predict(torch.ones(2, 3), bank, labels, 5, 0.07).tolist() == [[2, 3, 4, 0, 1]] * 2
    assert knn_predict(torch.ones(1, 3), bank, labels, 3, 0.07).tolist() == [[2, 4, 0, 1, 3]]


@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_extreme_temperatures_stay_finite(temperature):
    bank, labels = blobs(60)
    assert sorted(knn_predict(-bank[:1], bank, labels, 20, temperature)[0].tolist()) == list(range(6))


def test_too_few_neighbours():
    rows, labels = blobs(20)
    assert knn_predict(rows, rows, labels, 20, 0.07).shape == (20, 6)
    with pytest.raises(UserError, match=r"^20 nearest neighbours .* there are 19"):
        knn_leave_one_out(rows, labels, 20, 0.07)
    with pytest.raises(UserError, match=r"^21 nearest"):
        knn_predict(rows, rows, labels, 21, 0.07)
