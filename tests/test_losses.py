import pytest
import torch
import torch.nn.functional as F

from shoal.losses import (
    cluster_entropy,
    coding_rate,
    positive_alignment,
    prototype_scattering,
    prototypes,
    spread_of_views,
)
from tests.golden import golden


def naive_scattering(q, k, labels, n_clusters, temperature):
    """The published definition, cluster by cluster; q and k at unit length."""
    present = [c for c in range(n_clusters) if (labels == c).any()]
    mu = {c: F.normalize(q[labels == c].mean(0), dim=0) for c in present}
    mu_target = {c: F.normalize(k[labels == c].mean(0), dim=0) for c in present}
    rows = []
    for c in present:
        positive = mu[c] @ mu_target[c] / temperature
        others = [mu[c] @ mu[j] / temperature if j in mu else torch.tensor(-10.0) for j in range(n_clusters) if j != c]
        rows.append(-positive + torch.logsumexp(torch.stack([positive, *others]), 0))
    return torch.stack(rows).mean()


def test_prototype_scattering_matches_the_published_loss_and_gradient():
    data = golden("prototype_scattering")
    online = data["q"].clone().requires_grad_()
    k, temperature = int(data["n_clusters"]), float(data["temperature"])
    loss = prototype_scattering(online, data["k"], data["labels"], k, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(float(data["loss"]), abs=1e-5)
    # The published function takes unit vectors and so keeps the gradient's radial part; ours normalises inside, which
    # takes that part away.
    radial = (data["grad_q"] * data["q"]).sum(-1, keepdim=True) * data["q"]
    torch.testing.assert_close(online.grad, data["grad_q"] - radial, rtol=1e-4, atol=1e-6)


def test_prototype_scattering_equals_a_double_loop_on_raw_features():
    generator = torch.Generator().manual_seed(0)
    q, k = (3 * torch.randn(50, 8, generator=generator) for _ in range(2))
    labels = torch.randint(0, 6, (50,), generator=generator)
    labels[labels == 4] = -1
    known = labels >= 0
    expected = naive_scattering(F.normalize(q, dim=1)[known], F.normalize(k, dim=1)[known], labels[known], 6, 0.5)
    torch.testing.assert_close(prototype_scattering(q, k, labels, 6, 0.5), expected)


def test_a_batch_without_clusters_scatters_nothing():
    online = torch.randn(8, 4, requires_grad=True)
    loss = prototype_scattering(online, torch.randn(8, 4), torch.full((8,), -1), 3, 0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(online.grad, torch.zeros(8, 4))


def test_soft_prototypes_match():
    data = golden("soft_centers")
    torch.testing.assert_close(prototypes(data["x"], data["assignment"]), data["centers"], rtol=1e-5, atol=1e-6)


def test_hard_prototypes_match():
    data = golden("prototype_scattering")
    assignment = F.one_hot(data["labels"], int(data["n_clusters"]))
    torch.testing.assert_close(prototypes(data["q"], assignment.float()), data["q_centers"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prototypes(data["k"], assignment.float()), data["k_centers"], rtol=1e-5, atol=1e-6)


def test_positive_alignment_is_a_squared_distance_of_unit_vectors():
    p, k = torch.randn(16, 5, requires_grad=True), torch.randn(16, 5, requires_grad=True)
    loss = positive_alignment(p, k)
    expected = (F.normalize(p, dim=1) - F.normalize(k, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert k.grad is None


@pytest.mark.parametrize("b", [1, 5, 8, 30])
def test_the_coding_rate_is_half_a_determinant(b):
    views = torch.randn(3, b, 8, generator=torch.Generator().manual_seed(b))
    rates = []
    for view in views.double():
        rows = F.normalize(view, dim=1)
        rates.append(torch.linalg.slogdet(torch.eye(8).double() + 8 / (b * 0.5) * rows.T @ rows).logabsdet / 2)
    assert coding_rate(views, 0.5).item() == pytest.approx(torch.stack(rates).mean().item(), rel=1e-5)


def test_the_coding_rate_is_largest_where_directions_differ():
    same = torch.ones(1, 8, 8)
    assert coding_rate(same).item() < coding_rate(torch.eye(8)[None]).item()
    assert coding_rate(torch.zeros(2, 4, 8)).item() == 0  # no direction at all


def test_views_that_agree_are_not_spread():
    view = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    assert spread_of_views(torch.cat((view, 3 * view))).item() == pytest.approx(-1)
    assert spread_of_views(torch.cat((view, -view))).item() == pytest.approx(0, abs=1e-6)


def test_losses_stay_in_float32_under_autocast():
    q, k, labels = torch.randn(32, 16), torch.randn(32, 16), torch.arange(32) % 4
    with torch.autocast("cpu", torch.bfloat16):
        inside = prototype_scattering(q, k, labels, 4, 0.5)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, prototype_scattering(q, k, labels, 4, 0.5))


def test_entropy_of_clusters_of_which_one_has_underflown():
    logits = torch.tensor([[200.0, 0, 0]] * 4, requires_grad=True)
    loss = cluster_entropy(logits.softmax(1))
    loss.backward()
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item())
    assert logits.grad.isfinite().all()
