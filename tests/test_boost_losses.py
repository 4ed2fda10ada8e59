"""DCBoost's losses and filter against what their equations say, pair by pair."""

import pytest
import torch
import torch.nn.functional as F

from shoal.losses import cluster_concentration, consistent_labels, prototype_repulsion


def blobs(seed: int, b: int = 60, k: int = 5, spread: float = 0.4):
    """Online features, target's features and labels, some of them wrong and some −1; cluster 3 has no row."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(k, (b,), generator=generator)
    centers = torch.randn(k, 8, generator=generator)
    online, target = (centers[truth] + spread * torch.randn(b, 8, generator=generator) for _ in range(2))
    labels = truth.where(torch.rand(b, generator=generator) > 0.1, (truth + 1) % k)
    labels[labels == 3] = 2
    labels[torch.rand(b, generator=generator) < 0.15] = -1
    return 3 * online, target, labels


def naive_filter(target, labels, most):
    """Row by row and neighbour by neighbour."""
    directions = F.normalize(target, dim=1)
    known = [i for i in range(len(labels)) if labels[i] >= 0]
    reach = []
    for i in range(len(labels)):
        others = [j for j in known if j != i]
        others.sort(key=lambda j: -float(directions[i] @ directions[j]))
        n = 0
        for j in others[:most]:
            if labels[j] != labels[i]:
                break
            n += 1
        reach.append(n)
    scores = [k * sum(n >= k for n in reach) / len(labels) for k in range(1, most + 1)]
    best = 1 + scores.index(max(scores))
    return torch.tensor([int(label) if n >= best else -1 for n, label in zip(reach, labels, strict=True)])


@pytest.mark.parametrize("most", [1, 7, 50, 200])
@pytest.mark.parametrize("spread", [0.1, 0.5, 1.5])
def test_the_filter_is_that_of_a_loop(most, spread):
    for seed in range(3):
        _, target, labels = blobs(seed, spread=spread)
        kept = consistent_labels(target, labels, most)
        assert torch.equal(kept, naive_filter(target, labels, most))
        assert (kept >= 0).any()


def test_the_filter_keeps_clear_clusters_whole_and_no_wrong_label():
    truth = torch.arange(40) % 2
    target = F.one_hot(truth, 4) + 0.01 * torch.randn(40, 4)
    assert torch.equal(consistent_labels(target, truth), truth)
    labels = truth.clone()
    labels[7] = 0
    assert consistent_labels(target, labels)[7] == -1


@pytest.mark.parametrize("b", [1, 2, 3])
def test_a_batch_of_fewer_rows_than_neighbours(b):
    labels = torch.zeros(b, dtype=torch.int64)
    expected = labels if b > 1 else torch.tensor([-1])  # a row alone has nobody to agree with
    assert torch.equal(consistent_labels(torch.randn(b, 4), labels), expected)


def test_the_filter_keeps_nothing_where_nobody_agrees_or_has_a_label():
    assert (consistent_labels(torch.randn(6, 4), torch.arange(6)) == -1).all()
    assert (consistent_labels(torch.randn(6, 4), torch.full((6,), -1)) == -1).all()
    assert (consistent_labels(torch.randn(6, 4), torch.tensor([0, -1, -1, -1, -1, -1])) == -1).all()


def naive_concentration(online, target, labels):
    """The double sum as it is written, weight included."""
    z, t = F.normalize(online, dim=1), F.normalize(target, dim=1)
    terms = []
    for c in labels[labels >= 0].unique():
        rows = (labels == c).nonzero()[:, 0]
        weight = 1 / (z[rows].sum(0).norm() * t[rows].sum(0).norm())
        terms.append(weight / 2 * sum((z[i] - t[j]).square().sum() for i in rows for j in rows))
    return sum(terms) / len(terms)


def naive_repulsion(online, target, labels, reduction):
    """Over ordered pairs of clusters."""
    z, t = F.normalize(online, dim=1), F.normalize(target, dim=1)
    present = labels[labels >= 0].unique()
    v, w = ({int(c): F.normalize(x[labels == c].sum(0), dim=0) for c in present} for x in (z, t))
    pairs = [(v[a] - w[b]).square().sum() for a in v for b in w if a != b]
    return -sum(pairs) / {"mean": len(pairs), "cluster_mean": len(present), "sum": 1}[reduction]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("term", ["pos", "mean", "cluster_mean", "sum"])
def test_losses_and_gradients_are_those_of_double_loops(term, seed):
    online, target, labels = blobs(seed)
    found, expected = [], []
    for naive, values in ((False, found), (True, expected)):
        z, t = online.clone().requires_grad_(), target.clone().requires_grad_()
        if term == "pos":
            loss = naive_concentration(z, t.detach(), labels) if naive else cluster_concentration(z, t, labels, 5)
        else:
            loss = naive_repulsion(z, t.detach(), labels, term) if naive else prototype_repulsion(z, t, labels, 5, term)
        loss.backward()
        assert t.grad is None
        values += [loss.detach(), z.grad]
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [cluster_concentration, prototype_repulsion])
def test_rows_of_no_cluster_count_for_nothing(loss):
    online, target, labels = blobs(0)
    known = labels >= 0
    torch.testing.assert_close(
        loss(online, target, labels, 5), loss(online[known], target[known], labels[known], 5), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (cluster_concentration, torch.full((6,), -1)),
        (prototype_repulsion, torch.full((6,), -1)),
        (prototype_repulsion, torch.full((6,), 2)),  # a cluster alone has none to be repelled by
    ],
)
def test_without_rows_or_pairs_a_loss_is_zero(loss, labels):
    online = torch.randn(6, 4, requires_grad=True)
    found = loss(online, torch.randn(6, 4), labels, 3)
    found.backward()
    assert found.item() == 0
    assert torch.equal(online.grad, torch.zeros(6, 4))


def test_one_point_has_no_spread_and_opposite_ones_stay_finite():
    same = torch.ones(4, 3)
    assert cluster_concentration(same, same, torch.zeros(4, dtype=torch.int64), 2).item() == pytest.approx(0, abs=1e-6)
    online = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = cluster_concentration(online, online, torch.zeros(2, dtype=torch.int64), 1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(online.grad).all()


def test_losses_stay_in_float32_under_autocast():
    online, target, labels = blobs(0)
    for loss in (cluster_concentration, prototype_repulsion):
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(online, target, labels, 5)
        assert torch.equal(inside, loss(online, target, labels, 5))
    with torch.autocast("cpu", torch.bfloat16):
        kept = consistent_labels(target, labels)
    assert torch.equal(kept, consistent_labels(target, labels))
