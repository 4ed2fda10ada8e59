"""TEMI's loss against plain loops, and heads side by side against heads one by one."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from shoal.clustering.temi import heads as module
from shoal.clustering.temi.heads import BOTTLENECK, HIDDEN, Heads, temi_loss, update_marginal

H, B, K, D = 3, 5, 4, 7


@pytest.fixture
def in_float32(monkeypatch):
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda _device: False)


def log_probabilities(seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(H, K, 2, B, generator=g, dtype=dtype)).log_softmax(1)


def marginals(dtype=torch.float32):
    return torch.rand(H, K, generator=torch.Generator().manual_seed(2), dtype=dtype).add(0.1).softmax(1)


def test_the_loss_is_that_of_plain_loops():
    student, teacher, marginal = log_probabilities(0), log_probabilities(1), marginals()
    q_s, q_t, p = student.exp().tolist(), teacher.exp().tolist(), marginal.tolist()
    beta = 0.6
    expected = []
    for h in range(H):
        total = 0.0
        for i in range(B):
            weight = sum(q_t[g][c][0][i] * q_t[g][c][1][i] for g in range(H) for c in range(K)) / H
            for one, other in ((0, 1), (1, 0)):
                inside = sum((q_s[h][c][one][i] * q_t[h][c][other][i]) ** beta / p[h][c] for c in range(K))
                total -= weight * math.log(inside) / 2
        expected.append(total / B)
    np.testing.assert_allclose(temi_loss(student, teacher, marginal, beta=beta), expected, rtol=1e-5)


def test_the_losss_gradient_is_that_of_finite_differences():
    teacher, marginal = log_probabilities(1, torch.float64), marginals(torch.float64)
    student = log_probabilities(0, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: temi_loss(s, teacher, marginal), student)
    assert not temi_loss(teacher.requires_grad_(), teacher, marginal).isnan().any()


def test_no_gradient_reaches_the_teacher():
    student, teacher = log_probabilities(0).requires_grad_(), log_probabilities(1).requires_grad_()
    temi_loss(student, teacher, marginals()).sum().backward()
    assert student.grad.any()
    assert teacher.grad is None


def test_an_unused_cluster_gives_finite_losses():
    marginal = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).expand(H, -1)
    assert temi_loss(log_probabilities(0), log_probabilities(1), marginal).isfinite().all()


def one_by_one(heads, number):
    """The same head from torch's own layers."""
    last = weight_norm(nn.Linear(BOTTLENECK, heads.last.shape[1], bias=False))
    first, second = nn.Linear(heads.first.shape[1], HIDDEN), nn.Linear(HIDDEN, BOTTLENECK)
    own = slice(number * HIDDEN, (number + 1) * HIDDEN)
    first.weight.data, first.bias.data = heads.first[own].clone(), heads.first_bias[own].clone()
    second.weight.data, second.bias.data = heads.second[number].clone(), heads.second_bias[number].clone()
    last.parametrizations.weight.original0.data = heads.gain[number, :, None].clone()
    last.parametrizations.weight.original1.data = heads.last[number].clone()
    inner = nn.Sequential(first, nn.GELU(), second)
    return inner, last


@torch.no_grad()
def made(n_heads=16):
    heads = Heads(n_heads, D, K, torch.Generator().manual_seed(0))
    for parameter in heads.parameters():
        parameter += 0.1 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1))
    return heads


@pytest.mark.usefixtures("in_float32")
def test_sixteen_heads_in_one_product_are_sixteen_networks():
    heads = made()
    x = torch.randn(B, D, generator=torch.Generator().manual_seed(3))
    logits = heads(x)
    logits.square().sum().backward()
    for number in range(16):
        inner, last = one_by_one(heads, number)
        alone = last(nn.functional.normalize(inner(x), dim=1))
        torch.testing.assert_close(logits[number].T, alone, rtol=1e-4, atol=1e-5)
        alone.square().sum().backward()
        torch.testing.assert_close(heads.second.grad[number], inner[2].weight.grad, rtol=1e-3, atol=1e-4)
        directions = last.parametrizations.weight.original1.grad
        torch.testing.assert_close(heads.last.grad[number], directions, rtol=1e-3, atol=1e-4)


def test_bfloat16_is_close(monkeypatch):
    heads, x = made(), torch.randn(B, D, generator=torch.Generator().manual_seed(3))
    found = []
    for multiplies in (True, False):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda _device, answer=multiplies: answer)
        found.append(heads(x))
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found, atol=0.02, rtol=0.02)


def test_the_marginal_moves_towards_what_teachers_say():
    marginal, teacher = marginals(), log_probabilities(1)
    expected = 0.9 * marginal + 0.1 * teacher.exp().mean((2, 3))
    update_marginal(marginal, teacher)
    torch.testing.assert_close(marginal, expected)
